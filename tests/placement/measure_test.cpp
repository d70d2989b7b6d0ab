// What a placement costs, against a plain evaluation: every token walks through the layers once for every home.
#include "placement/problem.hpp"
#include "tests/placement/random_problem.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>

namespace coterie {
namespace {

struct Sent {
  double rows = 0;
  double priced = 0;
};

/// Traffic by the words of problem.hpp: one home at a time, ranks in sets, no shortcut.
class Walker {
 public:
  Walker(const Problem& problem, const Owners& owners)
      : problem_(problem), owners_(owners), node_(problem.topology.node_of_rank()) {}

  Sent per_token_and_layer() {
    bool replicated = false;
    for (const auto& layer : owners_)
      for (const auto& ranks : layer) replicated = replicated || ranks.size() > 1;
    const WeightedTrace& part = problem_.traces.front();
    const std::int64_t count = part.count < 0 ? part.trace->tokens() - part.first : part.count;
    for (std::int64_t t = part.first; t < part.first + count; ++t)
      for (int home = 0; home < problem_.ranks(); ++home)
        if (!replicated || home == t % problem_.ranks())
          token(*part.trace, t, home, replicated ? 1.0 : 1.0 / problem_.ranks());
    const double steps = static_cast<double>(count) * problem_.layers();
    return {sent_.rows / steps, sent_.priced / steps};
  }

 private:
  void row(int from, int to, double weight) {
    if (from == to) return;
    sent_.rows += weight;
    sent_.priced += weight * (node_[from] == node_[to] ? problem_.prices.inside_node : problem_.prices.between_nodes);
  }

  bool in_domain(int rank, int home) const {
    switch (problem_.domain) {
      case Domain::rank:
        return rank == home;
      case Domain::node:
        return node_[rank] == node_[home];
      case Domain::world:
        return true;
    }
    return false;
  }

  int chosen_replica(const std::vector<int>& ranks, int resident, const std::vector<int>& visited,
                     std::int64_t t) const {
    const auto among = [&](auto&& fits) {
      std::vector<int> fitting;
      for (const int r : ranks)
        if (fits(r)) fitting.push_back(r);
      return fitting;
    };
    for (const auto& fitting : {among([&](int r) { return r == resident; }),
                                among([&](int r) { return std::count(visited.begin(), visited.end(), r) > 0; }),
                                among([&](int r) { return node_[r] == node_[resident]; }), ranks})
      if (!fitting.empty()) return fitting[(t / problem_.ranks()) % static_cast<std::int64_t>(fitting.size())];
    return -1;
  }

  void token(const Trace& trace, std::int64_t t, int home, double weight) {
    int resident = home;
    for (int l = 0; l < trace.layers(); ++l) {
      std::vector<int> visited;  // in the order of the choices
      std::map<int, std::pair<double, int>> gates;
      for (int c = 0; c < trace.top_k; ++c) {
        if (problem_.top > 0 && c >= problem_.top) break;
        const std::size_t at = (static_cast<std::size_t>(t) * trace.layers() + l) * trace.top_k + c;
        const int expert = trace.experts[at];
        if (expert == Trace::kNoExpert) continue;
        const int rank = chosen_replica(owners_[l][expert], resident, visited, t);
        if (gates.count(rank) == 0) visited.push_back(rank);
        gates[rank].first += trace.weights.empty() ? 1.0 : static_cast<double>(static_cast<float>(trace.weights[at]));
        ++gates[rank].second;
      }
      if (visited.empty()) continue;
      int landing = -1;
      for (const int rank : visited)
        if (in_domain(rank, home) && (landing < 0 || gates[rank] > gates[landing])) landing = rank;
      if (landing < 0) landing = home;
      for (const int rank : visited) {
        row(resident, rank, weight);
        row(rank, landing, weight);
      }
      if (gates.count(landing) == 0) row(resident, landing, weight);
      resident = landing;
    }
  }

  const Problem& problem_;
  const Owners& owners_;
  std::vector<int> node_;
  Sent sent_;
};

const std::vector<Topology> kTopologies{{{1}}, {{4}}, {{2, 2}}, {{3, 1, 2}}, {{1, 1, 1}}, {{7}}};

TEST(Measure, CountsTheRowsThatTheRulesSay) {
  std::uint64_t seed = 0;
  for (const Topology& topology : kTopologies)
    for (const Domain domain : {Domain::rank, Domain::node, Domain::world})
      for (const int replicas : {0, 5})
        for (const bool weights : {false, true}) {
          auto [trace, problem] = random_problem({.tokens = 150, .top_k = 3, .weights = weights}, topology, ++seed);
          problem.domain = domain;
          problem.top = seed % 3 == 0 ? 2 : 0;
          const Owners owners = random_owners(problem, replicas, seed);
          const Figures found = measure(problem, owners);
          const Sent expected = Walker(problem, owners).per_token_and_layer();
          ASSERT_NEAR(found.rows, expected.rows, 1e-9) << "seed " << seed;
          ASSERT_NEAR(found.priced, expected.priced, 1e-9) << "seed " << seed;
          EXPECT_DOUBLE_EQ(evaluate(problem, owners), found.priced);
        }
}

TEST(Measure, FollowsTheFormulasForOneNode) {
  auto [trace, problem] = random_problem({.top_k = 1}, {{4}}, 1);
  // k = 1, domain world: nothing but the copies that leave the resident rank.
  const Assignment all_on_one(problem.layers(), std::vector<int>(problem.experts(), 0));
  const double first_layer_only = 0.75 / problem.layers();
  std::int64_t steps = 0;
  for (std::int64_t t = 0; t < trace->tokens(); ++t) {
    bool any = false;
    for (int l = 0; l < trace->layers(); ++l) any = any || trace->experts[t * trace->layers() + l] != Trace::kNoExpert;
    steps += any;
  }
  EXPECT_NEAR(measure(problem, all_on_one).rows,
              first_layer_only * static_cast<double>(steps) / static_cast<double>(trace->tokens()), 1e-12);
  // Domain rank: there and back again, but for a quarter of the tokens, which are at home there.
  problem.domain = Domain::rank;
  EXPECT_NEAR(measure(problem, all_on_one).rows,
              2 * 0.75 * std::accumulate(problem.statistics.load.begin(), problem.statistics.load.end(), 0.0) /
                  static_cast<double>(trace->tokens() * trace->layers()),
              1e-12);
}

TEST(Measure, DoesNotCareForTheNamesOfRanks) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    auto [trace, problem] = random_problem({.top_k = 3, .weights = seed % 2 == 0}, {{3, 3}}, seed);
    problem.domain = static_cast<Domain>(seed % 3);
    Owners owners = random_owners(problem, 0, seed);
    const Figures before = measure(problem, owners);
    const std::vector<int> name{2, 0, 1, 4, 3, 5};
    for (auto& layer : owners)
      for (auto& ranks : layer) ranks = {name[ranks.front()]};
    const Figures after = measure(problem, owners);
    EXPECT_NEAR(before.priced, after.priced, 1e-9) << "seed " << seed;
    EXPECT_NEAR(before.affinity, after.affinity, 1e-12);
    EXPECT_NEAR(before.load_mean, after.load_mean, 1e-12);
  }
}

TEST(Measure, WeighsTracesAndWindows) {
  auto [trace, problem] = random_problem({.tokens = 300, .top_k = 2}, {{4}}, 5);
  const Owners owners = random_owners(problem, 0, 5);
  const auto rows_of = [&problem = problem, &owners](std::vector<WeightedTrace> traces) {
    problem.traces = std::move(traces);
    problem.statistics = count(problem.traces, {.by_gate = false});
    return measure(problem, owners);
  };
  const Figures first = rows_of({{trace.get(), 1, 0, 100}});
  const Figures rest = rows_of({{trace.get(), 1, 100, -1}});
  const Figures both = rows_of({{trace.get(), 3, 0, 100}, {trace.get(), 1, 100, 200}});
  EXPECT_NEAR(both.rows, (3 * 100 * first.rows + 200 * rest.rows) / 500, 1e-9);
}

TEST(Measure, SharesAffinityAndLoad) {
  auto [trace, problem] = random_problem({.tokens = 200, .top_k = 2}, {{2, 2}}, 9);
  const Owners owners = random_owners(problem, 0, 9);
  double total = 0, stays = 0, in_node = 0;
  for (int l = 0; l + 1 < problem.layers(); ++l)
    for (int i = 0; i < problem.experts(); ++i)
      for (int j = 0; j < problem.experts(); ++j) {
        const double weight = problem.statistics.affinity_at(l)[i * problem.experts() + j];
        const int a = owners[l][i].front(), b = owners[l + 1][j].front();
        total += weight;
        stays += a == b ? weight : 0;
        in_node += a / 2 == b / 2 ? weight : 0;
      }
  const Figures found = measure(problem, owners);
  EXPECT_NEAR(found.stays, stays / total, 1e-12);
  EXPECT_NEAR(found.affinity, (stays + (in_node - stays) * (1 - 1.0 / 8)) / total, 1e-12);
  double mean = 0, worst = 0;
  for (int l = 0; l < problem.layers(); ++l) {
    std::vector<double> rows(problem.ranks(), 0);
    for (int e = 0; e < problem.experts(); ++e) rows[owners[l][e].front()] += problem.statistics.load_at(l)[e];
    const double ratio =
        *std::max_element(rows.begin(), rows.end()) * problem.ranks() / std::accumulate(rows.begin(), rows.end(), 0.0);
    mean += ratio / problem.layers();
    worst = std::max(worst, ratio);
  }
  EXPECT_NEAR(found.load_mean, mean, 1e-12);
  EXPECT_NEAR(found.load_worst, worst, 1e-12);
}

TEST(CheckLimits, NamesTheLimitThatIsBroken) {
  auto [trace, problem] = random_problem({.experts = 8}, {{4}}, 3);
  Assignment assignment = contiguous_assignment(problem);
  EXPECT_EQ(check_limits(problem, assignment), "");
  assignment[1][0] = 1;
  EXPECT_EQ(check_limits(problem, assignment),
            "infeasible: equal counts: layer 1, rank 0 holds 1 experts, expected 2 to 2");
  problem.equal_counts = false;
  EXPECT_EQ(check_limits(problem, assignment), "infeasible: slots: layer 1, rank 1 holds 3 experts, 2 fit");
  problem.slots_per_rank = 3;
  EXPECT_EQ(check_limits(problem, assignment), "");
  problem.balance = 1.0;
  EXPECT_EQ(check_limits(problem, assignment).find("infeasible: load limit 1: layer 0, rank "), 0U);
  problem.slots_per_rank = 1;
  EXPECT_EQ(check_feasible(problem).find("infeasible: slots: 1 slots on each of 4 ranks"), 0U);
}

}  // namespace
}  // namespace coterie
