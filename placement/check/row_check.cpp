#include "placement/check/row_check.hpp"

#include "placement/check/dual_check.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace coterie {
namespace {

constexpr std::size_t kMostMembers = 16;  ///< bits of `members`: of a token's experts the first may be counted

/// Goes through all ways to spread a token's experts over nodes and ranks, larger groups first.
class LeastRows {
 public:
  LeastRows(const Topology& topology, const RecountRules& rules, CheckedRule rule, int capacity, double rank_price,
            double node_price)
      : rule_(rule),
        capacity_(capacity),
        nodes_(topology.nodes()),
        ranks_(topology.ranks()),
        largest_(*std::max_element(topology.ranks_per_node.begin(), topology.ranks_per_node.end())),
        even_(nodes_ * largest_ == ranks_),
        near_(nodes_ == 1 ? rules.near_price : std::min(rules.near_price, rules.far_price)),
        far_(nodes_ == 1 ? near_ : rules.far_price),
        rank_price_(rank_price),
        node_price_(node_price) {}

  double run(int experts) {
    node(experts, experts, 0);
    return least_;
  }

 private:
  struct Counted {
    int ranks = 0, most = 0;
    double pairs = 0;  // their prices
  };

  /// One more node with up to `largest` experts.
  void node(int left, int largest, int used) {
    if (left == 0) {
      least_ = std::min(least_, rows(used) + counted_.pairs);
      return;
    }
    if (used == nodes_) return;
    for (int size = std::min(left, largest); size > 0; --size) {
      const Counted before = counted_;
      counted_.pairs += node_price_ * size * (size - 1) / 2;
      rank(size, size, 0, left - size, size, used + 1);
      counted_ = before;
    }
  }

  /// One more rank of this node with up to `largest` of its `inside` experts that are left; then the next node.
  void rank(int inside, int largest, int used, int left, int node_size, int nodes_used) {
    if (inside == 0) {
      const Counted before = counted_;
      counted_.ranks += used;
      counted_.most = std::max(counted_.most, used);
      node(left, node_size, nodes_used);
      counted_ = before;
      return;
    }
    if (used == largest_) return;
    for (int size = std::min({inside, largest, capacity_}); size > 0; --size) {
      const double before = counted_.pairs;
      counted_.pairs += rank_price_ * size * (size - 1) / 2;
      rank(inside - size, size, used + 1, left, node_size, nodes_used);
      counted_.pairs = before;
    }
  }

  /// Least priced rows by how many ranks and nodes compute, and how many ranks the busiest node has.
  [[nodiscard]] double rows(int nodes) const {
    const double largest = static_cast<double>(largest_) / ranks_;
    const double home = near_ * (1 - 1.0 / ranks_) + (far_ - near_) * (1 - largest);
    const double partial = near_ * (counted_.ranks - 1) + (far_ - near_) * (counted_.ranks - counted_.most);
    switch (rule_) {
      case CheckedRule::onward:
        return 2 * partial;
      case CheckedRule::first:
        return home * counted_.ranks + partial;
      case CheckedRule::home:
        return 2 * home * counted_.ranks;
      case CheckedRule::node:
        return 2 * far_ * counted_.ranks * (1 - largest) +
               (even_ ? 2 * near_ * (counted_.ranks - nodes) / nodes_ : 0.0);
    }
    return 0;
  }

  CheckedRule rule_;
  int capacity_, nodes_, ranks_, largest_;
  bool even_;
  double near_, far_, rank_price_, node_price_;
  Counted counted_;
  double least_ = std::numeric_limits<double>::infinity();
};

struct Facet {
  double constant, rank_price, node_price;
};

/// (experts + 1): facets for so many experts, in the file's order.
std::vector<std::vector<Facet>> read_facets(const SafetensorsFile& file, const std::string& name, const Plan& plan,
                                            const RecountRules& rules, CheckedRule rule, int capacity) {
  const auto rows = checked_array<double>(file, name, ElementType::f64, {-1, 3});
  std::vector<std::vector<Facet>> facets(kMostMembers + 1);
  for (std::size_t at = 0; at + 2 < rows.size(); at += 3) {
    const double experts = rows[at], rank_price = rows[at + 1], node_price = rows[at + 2];
    if (!(experts >= 0 && experts <= 16) || !(rank_price >= 0) || !(node_price >= 0) || !std::isfinite(rank_price) ||
        !std::isfinite(node_price))
      throw bad_field(file.path().string(), name + "[" + std::to_string(at / 3) + "]",
                      std::to_string(experts) + ", " + std::to_string(rank_price) + ", " + std::to_string(node_price),
                      "0 to 16 experts and two finite prices of at least 0");
    const int count = static_cast<int>(experts);
    const double constant =
        count == 0 ? 0 : least_rows(plan.topology, rules, rule, capacity, count, rank_price, node_price);
    facets[count].push_back({constant, rank_price, node_price});
  }
  return facets;
}

}  // namespace

CheckedRule checked_rule(const Topology& topology, const RecountRules& rules, bool replicas, int layer) {
  if (replicas) return CheckedRule::onward;
  if (goes_on(topology, rules)) return layer == 0 ? CheckedRule::first : CheckedRule::onward;
  return rules.domain == "rank" || topology.nodes() == topology.ranks() ? CheckedRule::home : CheckedRule::node;
}

bool goes_on(const Topology& topology, const RecountRules& rules) {
  return rules.domain == "world" || (rules.domain == "node" && topology.nodes() == 1);
}

double least_rows(const Topology& topology, const RecountRules& rules, CheckedRule rule, int capacity, int experts,
                  double rank_price, double node_price) {
  return LeastRows(topology, rules, rule, capacity, rank_price, node_price).run(experts);
}

CheckedRows checked_rows(const SafetensorsFile& file, const Plan& plan, std::span<const WeightedTrace> traces,
                         const RecountRules& rules, int capacity, bool replicas) {
  std::int64_t tokens = 0;
  for (const WeightedTrace& window : traces) tokens += window_end(window) - window.first;
  const Shape shape = {tokens, plan.layers()};
  const auto members = checked_array<std::uint16_t>(file, "members", ElementType::u16, shape);
  const auto facet_of = checked_array<std::uint16_t>(file, "facet", ElementType::u16, shape);
  const auto first =
      read_facets(file, "first_facets", plan, rules, checked_rule(plan.topology, rules, replicas, 0), capacity);
  const auto onward =
      read_facets(file, "onward_facets", plan, rules, checked_rule(plan.topology, rules, replicas, 1), capacity);

  CheckedRows rows;
  const auto experts = static_cast<std::size_t>(plan.experts);
  rows.rank_pairs.assign(plan.layers(), std::vector<double>(experts * experts, 0));
  rows.node_pairs = rows.rank_pairs;
  std::size_t at = 0;
  for (const WeightedTrace& window : traces)
    for (std::int64_t t = window.first; t < window_end(window); ++t)
      for (int l = 0; l < plan.layers(); ++l, ++at) {
        if (members[at] == 0) continue;  // counted as no rows
        const std::vector<int> chosen = choice_of(*window.trace, t, l, rules.top).experts;
        const auto& facets = (l == 0 ? first : onward)[std::popcount(members[at])];
        if (static_cast<std::size_t>(std::bit_width(members[at])) > chosen.size() || facet_of[at] >= facets.size())
          throw bad_field(
              file.path().string(),
              "members and facet of token " + std::to_string(at / plan.layers()) + ", layer " + std::to_string(l),
              std::to_string(members[at]) + " and " + std::to_string(facet_of[at]),
              "a set of the token's " + std::to_string(chosen.size()) + " experts and a facet for it");
        const Facet& facet = facets[facet_of[at]];
        rows.constant += window.weight * facet.constant;
        const std::size_t among = std::min(chosen.size(), kMostMembers);
        for (std::size_t a = 0; a < among; ++a)
          for (std::size_t b = 0; b < among; ++b) {
            if (a == b || !(members[at] >> a & 1) || !(members[at] >> b & 1)) continue;
            rows.rank_pairs[l][chosen[a] * experts + chosen[b]] += window.weight * facet.rank_price;
            rows.node_pairs[l][chosen[a] * experts + chosen[b]] += window.weight * facet.node_price;
          }
      }
  return rows;
}

}  // namespace coterie
