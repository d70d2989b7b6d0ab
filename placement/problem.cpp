#include "placement/problem.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <numeric>

namespace coterie {
namespace {

// Room for the rounding of sums of loads.
constexpr double kLoadSlack = 1 + 1e-9;

constexpr std::array<std::string_view, 3> kObjectives{"affinity", "traffic", "load"};
constexpr std::array<std::string_view, 3> kDomains{"rank", "node", "world"};

template <class Enum>
Enum named(std::string_view name, const std::array<std::string_view, 3>& names, std::string_view where) {
  const auto found = std::find(names.begin(), names.end(), name);
  if (found != names.end()) return static_cast<Enum>(found - names.begin());
  throw InputError(std::string(where) + ": found '" + std::string(name) + "', expected " + std::string(names[0]) +
                   ", " + std::string(names[1]) + " or " + std::string(names[2]));
}

std::string number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.4g", value);
  return text.data();
}

std::string place(int layer, int rank) {
  return "layer " + std::to_string(layer) + ", rank " + std::to_string(rank);
}

double mean_load(const Problem& problem, int layer) {
  const auto load = problem.statistics.load_at(layer);
  return std::accumulate(load.begin(), load.end(), 0.0) / problem.ranks();
}

std::string too_many(const std::string& where, int held, int fit) {
  return "infeasible: slots: " + where + " holds " + std::to_string(held) + " experts, " + std::to_string(fit) + " fit";
}

std::string too_heavy(const Problem& problem, const std::string& where, double rows, double mean) {
  return "infeasible: load limit " + number(*problem.balance) + ": " + where + " has " + number(rows / mean) +
         " times the mean";
}

}  // namespace

Objective objective_of(std::string_view name, std::string_view where) {
  return named<Objective>(name, kObjectives, where);
}
std::string_view name_of(Objective objective) noexcept {
  return kObjectives[static_cast<int>(objective)];
}
Domain domain_of(std::string_view name, std::string_view where) {
  return named<Domain>(name, kDomains, where);
}
std::string_view name_of(Domain domain) noexcept {
  return kDomains[static_cast<int>(domain)];
}

int Problem::fewest() const noexcept {
  return equal_counts ? experts() / ranks() : 0;
}

int Problem::most() const noexcept {
  const int even = (experts() + ranks() - 1) / ranks();
  return equal_counts ? std::min(even, slots()) : slots();
}

int Problem::slots() const noexcept {
  return slots_per_rank > 0 ? slots_per_rank : (experts() + replicas + ranks() - 1) / ranks();
}

double Problem::load_limit(int layer) const {
  if (!balance) return std::numeric_limits<double>::infinity();
  return *balance * mean_load(*this, layer) * kLoadSlack;
}

std::vector<double> link_prices(const Topology& topology, const LinkPrices& prices) {
  const std::vector<int> node = topology.node_of_rank();
  const std::size_t ranks = node.size();
  std::vector<double> price(ranks * ranks, 0);
  for (std::size_t a = 0; a < ranks; ++a)
    for (std::size_t b = 0; b < ranks; ++b)
      if (a != b) price[a * ranks + b] = node[a] == node[b] ? prices.inside_node : prices.between_nodes;
  return price;
}

bool better(Objective objective, double a, double b) noexcept {
  return objective == Objective::affinity ? a > b : a < b;
}

std::string check_limits(const Problem& problem, const Assignment& assignment) {
  if (static_cast<int>(assignment.size()) != problem.layers())
    return "infeasible: " + std::to_string(assignment.size()) + " layers of " + std::to_string(problem.layers());
  for (int l = 0; l < problem.layers(); ++l) {
    if (problem.is_fixed(l)) {
      if (assignment[l] != problem.fixed[l])
        return "infeasible: layer " + std::to_string(l) + " is not as it was fixed";
      continue;
    }
    std::vector<int> held(problem.ranks(), 0);
    std::vector<double> rows(problem.ranks(), 0);
    for (int e = 0; e < problem.experts(); ++e) {
      const int r = e < static_cast<int>(assignment[l].size()) ? assignment[l][e] : -1;
      if (r < 0 || r >= problem.ranks())
        return "infeasible: layer " + std::to_string(l) + ", expert " + std::to_string(e) + " has no rank";
      ++held[r];
      rows[r] += problem.statistics.load_at(l)[e];
    }
    for (int r = 0; r < problem.ranks(); ++r) {
      if (held[r] > problem.slots()) return too_many(place(l, r), held[r], problem.slots());
      if (held[r] < problem.fewest() || held[r] > problem.most())
        return "infeasible: equal counts: " + place(l, r) + " holds " + std::to_string(held[r]) +
               " experts, expected " + std::to_string(problem.fewest()) + " to " + std::to_string(problem.most());
      if (rows[r] > problem.load_limit(l)) return too_heavy(problem, place(l, r), rows[r], mean_load(problem, l));
    }
  }
  return {};
}

std::string check_limits(const Problem& problem, const Owners& owners) {
  return check_limits(problem, owners, problem.balance ? rank_rows(problem, owners) : std::vector<double>());
}

std::string check_limits(const Problem& problem, const Owners& owners, std::span<const double> rows) {
  if (static_cast<int>(owners.size()) != problem.layers())
    return "infeasible: " + std::to_string(owners.size()) + " layers of " + std::to_string(problem.layers());
  for (int l = 0; l < problem.layers(); ++l) {
    std::vector<int> held(problem.ranks(), 0);
    for (int e = 0; e < problem.experts(); ++e) {
      const std::string expert = "layer " + std::to_string(l) + ", expert " + std::to_string(e);
      if (e >= static_cast<int>(owners[l].size()) || owners[l][e].empty())
        return "infeasible: " + expert + " has no rank";
      int before = -1;
      for (const int r : owners[l][e]) {
        if (r <= before || r >= problem.ranks())
          return "infeasible: " + expert + ": ranks are not ascending ids of ranks";
        ++held[r];
        before = r;
      }
    }
    for (int r = 0; r < problem.ranks(); ++r)
      if (held[r] > problem.slots()) return too_many(place(l, r), held[r], problem.slots());
  }
  for (int l = 0; problem.balance && l < problem.layers(); ++l)
    for (int r = 0; r < problem.ranks(); ++r)
      if (rows[l * problem.ranks() + r] > problem.load_limit(l))
        return too_heavy(problem, place(l, r), rows[l * problem.ranks() + r], mean_load(problem, l));
  return {};
}

std::string check_feasible(const Problem& problem) {
  if (problem.ranks() * problem.most() < problem.experts() ||
      problem.ranks() * problem.slots() < problem.experts() + problem.replicas)
    return "infeasible: slots: " + std::to_string(problem.slots()) + " slots on each of " +
           std::to_string(problem.ranks()) + " ranks hold fewer than " + std::to_string(problem.experts()) +
           " experts" + (problem.replicas > 0 ? " and " + std::to_string(problem.replicas) + " replicas" : "");
  if (problem.replicas > problem.experts() * (problem.ranks() - 1))
    return "infeasible: replicas: " + std::to_string(problem.replicas) + " copies of " +
           std::to_string(problem.experts()) + " experts need more than " + std::to_string(problem.ranks()) + " ranks";
  if (!problem.balance || problem.replicas > 0) return {};
  for (int l = 0; l < problem.layers(); ++l) {
    if (problem.is_fixed(l)) continue;
    const auto load = problem.statistics.load_at(l);
    std::vector<double> sorted(load.begin(), load.end());
    std::sort(sorted.begin(), sorted.end());
    // The rank that holds the heaviest expert holds at least fewest() - 1 others.
    double lightest = sorted.back();
    for (int i = 0; i + 1 < problem.fewest(); ++i) lightest += sorted[i];
    if (lightest > problem.load_limit(l)) {
      const auto heaviest = std::max_element(load.begin(), load.end()) - load.begin();
      return "infeasible: load limit " + number(*problem.balance) + ": layer " + std::to_string(l) +
             ": the rank of expert " + std::to_string(heaviest) + " has at least " +
             number(lightest / mean_load(problem, l)) + " times the mean";
    }
    const double mean = mean_load(problem, l);
    if (mean > problem.load_limit(l))
      return "infeasible: load limit " + number(*problem.balance) + ": expected at least 1";
  }
  return {};
}

Assignment contiguous_assignment(const Problem& problem) {
  const int each = problem.experts() / problem.ranks();
  const int more = problem.experts() % problem.ranks();
  std::vector<int> layer;
  for (int r = 0; r < problem.ranks(); ++r) layer.insert(layer.end(), each + (r < more ? 1 : 0), r);
  return Assignment(problem.layers(), layer);
}

Owners owners_of(const Assignment& assignment) {
  Owners owners(assignment.size());
  for (std::size_t l = 0; l < assignment.size(); ++l)
    for (const int r : assignment[l]) owners[l].push_back({r});
  return owners;
}

std::vector<std::vector<int>> slots_of(const Problem& problem, const Owners& owners) {
  const int slots = problem.slots();
  std::vector<std::vector<int>> layers(owners.size(),
                                       std::vector<int>(static_cast<std::size_t>(problem.ranks()) * slots, -1));
  for (std::size_t l = 0; l < owners.size(); ++l) {
    std::vector<int> next(problem.ranks());
    for (int r = 0; r < problem.ranks(); ++r) next[r] = r * slots;
    for (std::size_t e = 0; e < owners[l].size(); ++e)
      for (const int r : owners[l][e]) layers[l][next[r]++] = static_cast<int>(e);
  }
  return layers;
}

Problem window_of(const Problem& problem, int first, int count) {
  const Statistics& all = problem.statistics;
  const auto square = static_cast<std::size_t>(all.experts) * all.experts;
  const auto slice = [](const std::vector<double>& from, std::size_t begin, std::size_t length) {
    return std::vector<double>(from.begin() + static_cast<std::ptrdiff_t>(begin),
                               from.begin() + static_cast<std::ptrdiff_t>(begin + length));
  };
  Problem part{.objective = problem.objective,
               .domain = problem.domain,
               .topology = problem.topology,
               .prices = problem.prices,
               .balance = problem.balance,
               .slots_per_rank = problem.slots_per_rank,
               .equal_counts = problem.equal_counts,
               .replicas = problem.replicas,
               .fixed = {},
               .statistics = {},
               .traces = {},
               .top = problem.top};
  part.statistics = {
      .layers = count, .experts = all.experts, .tokens = all.tokens, .load = {}, .affinity = {}, .coactivation = {}};
  part.statistics.load =
      slice(all.load, static_cast<std::size_t>(first) * all.experts, static_cast<std::size_t>(count) * all.experts);
  part.statistics.affinity = slice(all.affinity, first * square, (count - 1) * square);
  part.statistics.coactivation = slice(all.coactivation, first * square, count * square);
  if (!problem.fixed.empty()) part.fixed.assign(problem.fixed.begin() + first, problem.fixed.begin() + first + count);
  return part;
}

}  // namespace coterie
