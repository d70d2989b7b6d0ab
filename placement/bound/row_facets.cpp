#include "placement/bound/row_facets.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <utility>

namespace coterie {
namespace {

constexpr int kLargestSet = 16;  // experts of a token that a facet is made for
constexpr int kLargestHull = 8;  // the same where nodes count too: there are many more ways to spread them

/// A way to spread some experts over ranks and nodes.
struct Spread {
  int rank_pairs = 0, node_pairs = 0;
  int ranks = 0, nodes = 0;
  int most = 0;  ///< ranks in the node that has most of them
  auto operator<=>(const Spread&) const = default;
};

struct Limits {
  int rank_capacity, node_capacity, ranks_per_node, nodes;
};

Limits limits_of(const Problem& problem) {
  const auto& nodes = problem.topology.ranks_per_node;
  const int largest = *std::max_element(nodes.begin(), nodes.end());
  const int slots = problem.replicas > 0 ? problem.slots() : problem.most();
  return {slots, slots * largest, largest, static_cast<int>(nodes.size())};
}

int pairs(int n) {
  return n * (n - 1) / 2;
}

/// (experts + 1): all spreads of so many experts inside one node.
std::vector<std::set<Spread>> inside_node(int most, const Limits& limits) {
  std::vector<std::set<Spread>> ways(most + 1);
  ways[0].insert(Spread{});
  for (int rank = 0; rank < limits.ranks_per_node; ++rank) {
    std::vector<std::set<Spread>> more = ways;
    for (int have = 0; have < most; ++have)
      for (const Spread& s : ways[have])
        for (int add = 1; add <= std::min(limits.rank_capacity, most - have); ++add) {
          Spread with = s;
          with.rank_pairs += pairs(add);
          ++with.ranks;
          more[have + add].insert(with);
        }
    if (more == ways) break;
    ways = std::move(more);
  }
  return ways;
}

std::vector<std::set<Spread>> all_spreads(int most, const Limits& limits) {
  const std::vector<std::set<Spread>> node = inside_node(most, limits);
  std::vector<std::set<Spread>> ways(most + 1);
  ways[0].insert(Spread{});
  for (int n = 0; n < std::min(limits.nodes, most); ++n) {
    std::vector<std::set<Spread>> more = ways;
    for (int have = 0; have < most; ++have)
      for (const Spread& s : ways[have])
        for (int add = 1; add <= most - have; ++add)
          for (const Spread& inside : node[add]) {
            Spread with = s;
            with.rank_pairs += inside.rank_pairs;
            with.node_pairs += pairs(add);
            with.ranks += inside.ranks;
            ++with.nodes;
            with.most = std::max(with.most, inside.ranks);
            more[have + add].insert(with);
          }
    ways = std::move(more);
  }
  return ways;
}

/// Priced rows of a spread, at least.
class RowPrice {
 public:
  RowPrice(const Problem& problem, RowRule rule) : rule_(rule) {
    const auto& nodes = problem.topology.ranks_per_node;
    const double ranks = problem.ranks();
    largest_share_ = *std::max_element(nodes.begin(), nodes.end()) / ranks;
    nodes_ = static_cast<double>(nodes.size());
    even_ = std::all_of(nodes.begin(), nodes.end(), [&](int size) { return size == nodes.front(); });
    // A row between nodes costs at least what one inside costs: that is how the formulas below take prices apart.
    near_ = nodes.size() == 1 ? problem.prices.inside_node
                              : std::min(problem.prices.inside_node, problem.prices.between_nodes);
    far_ = nodes.size() == 1 ? near_ : problem.prices.between_nodes;
    // From a home at random to a rank: least where the rank's node is largest.
    home_ = near_ * (1 - 1 / ranks) + (far_ - near_) * (1 - largest_share_);
  }

  [[nodiscard]] double operator()(const Spread& s) const {
    if (s.ranks == 0) return 0;
    const double partial = near_ * (s.ranks - 1) + (far_ - near_) * (s.ranks - s.most);
    switch (rule_) {
      case RowRule::onward:
        return 2 * partial;
      case RowRule::first:
        return home_ * s.ranks + partial;
      case RowRule::home:
        return 2 * home_ * s.ranks;
      case RowRule::node: {
        const double outside = 2 * far_ * s.ranks * (1 - largest_share_);
        return even_ ? outside + 2 * near_ * (s.ranks - s.nodes) / nodes_ : outside;
      }
    }
    return 0;
  }

 private:
  RowRule rule_;
  double near_, far_, home_, largest_share_, nodes_;
  bool even_;
};

struct Point {
  double x, y, z;
};

// Lines under all points that touch two of them, and the lowest level one: the lower hull over x, falling to the right.
std::vector<std::pair<double, double>> falling_edges(const std::vector<std::pair<double, double>>& points) {
  double least = std::numeric_limits<double>::infinity();
  for (const auto& [x, z] : points) least = std::min(least, z);
  std::vector<std::pair<double, double>> lines = {{least, 0}};  // constant, price: z >= constant - price x
  for (const auto& [ax, az] : points)
    for (const auto& [bx, bz] : points) {
      if (ax >= bx || az <= bz) continue;
      const double price = (az - bz) / (bx - ax);
      const double constant = az + price * ax;
      if (std::all_of(points.begin(), points.end(),
                      [&, c = constant](const auto& p) { return p.second >= c - price * p.first - 1e-9; }))
        lines.emplace_back(constant, price);
    }
  return lines;
}

// The plane through three points as a facet, if it lies under all points and falls in both directions.
bool facet_through(const Point& a, const Point& b, const Point& c, const std::vector<Point>& points, RowFacet& facet) {
  const double ux = b.x - a.x, uy = b.y - a.y, uz = b.z - a.z;
  const double vx = c.x - a.x, vy = c.y - a.y, vz = c.z - a.z;
  const double determinant = ux * vy - uy * vx;
  if (std::abs(determinant) < 1e-9) return false;
  facet.rank_price = -(uz * vy - uy * vz) / determinant;
  facet.node_price = -(ux * vz - uz * vx) / determinant;
  if (facet.rank_price < 0 || facet.node_price < 0) return false;
  facet.constant = a.z + facet.rank_price * a.x + facet.node_price * a.y;
  return std::all_of(points.begin(), points.end(), [&](const Point& p) {
    return p.z >= facet.constant - facet.rank_price * p.x - facet.node_price * p.y - 1e-9;
  });
}

/// Each facet once, and under all points to the last digit.
std::vector<RowFacet> lowered(const std::vector<RowFacet>& found, const std::vector<Point>& points) {
  std::vector<RowFacet> facets;
  std::set<std::pair<long, long>> known;
  for (RowFacet facet : found) {
    if (!known.emplace(std::lround(facet.rank_price * 1e6), std::lround(facet.node_price * 1e6)).second) continue;
    facet.constant = std::numeric_limits<double>::infinity();
    for (const Point& p : points)
      facet.constant = std::min(facet.constant, p.z + facet.rank_price * p.x + facet.node_price * p.y);
    facets.push_back(facet);
  }
  return facets;
}

std::vector<RowFacet> hull(const std::set<Spread>& spreads, const RowPrice& price, bool nodes) {
  std::map<std::pair<int, int>, double> least;
  for (const Spread& s : spreads) {
    const auto [at, fresh] = least.try_emplace({s.rank_pairs, nodes ? s.node_pairs : 0}, price(s));
    if (!fresh) at->second = std::min(at->second, price(s));
  }
  std::vector<Point> points;
  std::vector<std::pair<double, double>> over_ranks, over_nodes;
  for (const auto& [at, z] : least) {
    points.push_back({static_cast<double>(at.first), static_cast<double>(at.second), z});
    over_ranks.emplace_back(at.first, z);
    over_nodes.emplace_back(at.second, z);
  }
  std::vector<RowFacet> facets;
  for (const auto& [constant, p] : falling_edges(over_ranks)) facets.push_back({constant, p, 0});
  if (!nodes) return lowered(facets, points);
  for (const auto& [constant, p] : falling_edges(over_nodes))
    if (p > 0) facets.push_back({constant, 0, p});
  for (std::size_t a = 0; a < points.size(); ++a)
    for (std::size_t b = a + 1; b < points.size(); ++b)
      for (std::size_t c = b + 1; c < points.size(); ++c) {
        RowFacet facet;
        if (facet_through(points[a], points[b], points[c], points, facet)) facets.push_back(facet);
      }
  return lowered(facets, points);
}

}  // namespace

RowRule row_rule(const Problem& problem, int layer) {
  if (problem.replicas > 0) return RowRule::onward;
  if (tokens_stay(problem)) return layer == 0 ? RowRule::first : RowRule::onward;
  const auto& nodes = problem.topology.ranks_per_node;
  const bool single = std::all_of(nodes.begin(), nodes.end(), [](int ranks) { return ranks == 1; });
  return problem.domain == Domain::rank || single ? RowRule::home : RowRule::node;
}

bool tokens_stay(const Problem& problem) {
  return problem.domain == Domain::world || (problem.domain == Domain::node && problem.topology.nodes() == 1);
}

RowFacets::RowFacets(const Problem& problem, RowRule rule, int most) {
  const Limits limits = limits_of(problem);
  const RowPrice price(problem, rule);
  const int largest = std::min(most, limits.nodes == 1 ? kLargestSet : kLargestHull);
  facets_.assign(largest + 1, {});
  facets_[0] = {RowFacet{}};
  const auto spreads = all_spreads(largest, limits);
  for (int u = 1; u <= largest; ++u) facets_[u] = hull(spreads[u], price, limits.nodes > 1);
}

}  // namespace coterie
