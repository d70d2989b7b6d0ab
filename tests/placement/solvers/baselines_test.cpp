#include "placement/solvers/baselines.hpp"

#include "placement/input_error.hpp"
#include "placement/plan.hpp"
#include "placement/solvers/eplb.hpp"
#include "tests/placement/random_problem.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace coterie {
namespace {

using Factory = std::unique_ptr<Solver> (*)();
constexpr Factory kFactories[] = {make_contiguous_solver, make_round_robin_solver, make_random_solver,
                                  make_balanced_solver,   make_bipartition_solver, make_eplb_solver};

const std::vector<Topology> kTopologies{{{1}}, {{2}}, {{3}}, {{2, 3}}, {{4, 4}}, {{1, 1, 1, 1, 1, 1, 1}}, {{16}}};

SolveOptions with_seed(std::uint64_t seed) {
  SolveOptions options;
  options.seed = seed;
  return options;
}

class Baseline : public testing::TestWithParam<Factory> {
 protected:
  const std::unique_ptr<Solver> solver_ = GetParam()();
};

TEST_P(Baseline, PlacesEveryExpertWithinTheLimitsOnAnyShape) {
  std::uint64_t seed = 1;
  for (const Topology& topology : kTopologies) {
    for (const TraceShape& shape : {TraceShape{.layers = 1, .experts = 8}, TraceShape{.layers = 5, .experts = 13}}) {
      const auto [trace, problem] = random_problem(shape, topology, ++seed);
      const Solution solution = solver_->solve(problem, with_seed(seed));
      EXPECT_EQ(check_limits(problem, solution.assignment), "") << solver_->name() << ", seed " << seed;
      EXPECT_NEAR(solution.value, evaluate(problem, solution.assignment), 1e-12);
      EXPECT_EQ(solution.solver, solver_->name());
      EXPECT_EQ(solution.assignment, solver_->solve(problem, with_seed(seed)).assignment) << "not deterministic";
    }
  }
}

TEST_P(Baseline, KeepsTheLoadLimitOrNamesIt) {
  int kept = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    auto [trace, problem] = random_problem({.experts = 16}, {{4}}, seed);
    problem.balance = 1.0 + 0.05 * static_cast<double>(seed);
    try {
      const Solution solution = solver_->solve(problem, {});
      EXPECT_EQ(check_limits(problem, solution.assignment), "");
      ++kept;
    } catch (const InputError& e) {
      EXPECT_EQ(std::string(e.what()).find("infeasible: load limit"), 0U) << e.what();
      EXPECT_NE(std::string(e.what()).find(solver_->name()), std::string::npos) << e.what();
    }
  }
  if (solver_->name() == "balanced" || solver_->name() == "random") {
    EXPECT_GT(kept, 10);
  }
}

TEST_P(Baseline, LeavesFixedLayersAsTheyAre) {
  auto [trace, problem] = random_problem({.layers = 3, .experts = 6}, {{3}}, 5);
  const std::vector<int> given{2, 2, 0, 1, 0, 1};
  problem.fixed = {{}, given, {}};
  const Solution solution = solver_->solve(problem, {});
  EXPECT_EQ(solution.assignment[1], given);
  EXPECT_EQ(check_limits(problem, solution.assignment), "");
}

TEST_P(Baseline, SaysThatSlotsAreTooFew) {
  auto [trace, problem] = random_problem({.experts = 9}, {{2}}, 5);
  problem.slots_per_rank = 4;
  try {
    (void)solver_->solve(problem, {});
    FAIL() << solver_->name();
  } catch (const InputError& e) {
    EXPECT_EQ(std::string(e.what()).find("infeasible: "), 0U) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(All, Baseline, testing::ValuesIn(kFactories), [](const auto& factory) {
  std::string name(factory.param()->name());
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Contiguous, GivesTheFirstRanksOneMore) {
  const auto [trace, problem] = random_problem({.layers = 1, .experts = 5}, {{3}}, 1);
  EXPECT_EQ(make_contiguous_solver()->solve(problem, {}).assignment, (Assignment{{0, 0, 1, 1, 2}}));
  EXPECT_EQ(make_round_robin_solver()->solve(problem, {}).assignment, (Assignment{{0, 1, 2, 0, 1}}));
}

TEST(Random, OtherSeedsGiveOtherPlacements) {
  const auto [trace, problem] = random_problem({}, {{3}}, 1);
  EXPECT_NE(make_random_solver()->solve(problem, with_seed(1)).assignment,
            make_random_solver()->solve(problem, with_seed(2)).assignment);
}

TEST(Balanced, ReachesTheLightestHeaviestRankOfSmallInstances) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    auto [trace, problem] = random_problem({.tokens = 60, .layers = 1, .experts = 6}, {{2}}, seed);
    problem.objective = Objective::load;
    double best = 1e9;
    for (int mask = 0; mask < 64; ++mask) {
      Assignment assignment(1);
      for (int e = 0; e < 6; ++e) assignment[0].push_back(mask >> e & 1);
      if (check_limits(problem, assignment).empty()) best = std::min(best, evaluate(problem, assignment));
    }
    const double value = make_balanced_solver()->solve(problem, {}).value;
    EXPECT_GE(value, best - 1e-12);
    EXPECT_LE(value, best * 1.1) << "seed " << seed;
  }
}

/// Expert i is followed by experts of its own class (i mod ranks) only.
Problem planted(int layers, int experts, const Topology& topology) {
  Problem problem;
  problem.objective = Objective::affinity;
  problem.topology = topology;
  problem.balance.reset();
  auto& s = problem.statistics;
  s.layers = layers;
  s.experts = experts;
  s.tokens = 1;
  const auto n = static_cast<std::size_t>(experts);
  s.load.assign(layers * n, 1);
  s.affinity.assign((layers - 1) * n * n, 0);
  for (std::size_t x = 0; x < s.affinity.size(); ++x) {
    const auto i = static_cast<int>(x / n % n);
    const auto j = static_cast<int>(x % n);
    s.affinity[x] = i % topology.ranks() == j % topology.ranks() ? 1 : 0;
  }
  return problem;
}

TEST(Bipartition, FindsClassesThatNeverMix) {
  for (const Topology& topology : {Topology{{2}}, Topology{{4}}, Topology{{2, 2}}, Topology{{3}}, Topology{{8}}}) {
    const Problem problem = planted(6, 24, topology);
    EXPECT_NEAR(make_bipartition_solver()->solve(problem, {}).value, 1.0, 1e-9) << topology.ranks() << " ranks";
  }
}

TEST(Bipartition, KeepsMoreThanChanceOnRealStructure) {
  auto [trace, problem] = random_problem({.tokens = 2000, .layers = 6, .experts = 16, .top_k = 1}, {{4, 4}}, 3);
  const auto stays = [&, &p = problem](const Solver& solver) {
    return measure(p, solver.solve(p, {}).assignment).stays;
  };
  EXPECT_GT(stays(*make_bipartition_solver()), 1.3 * stays(*make_random_solver()));
}

// The example of EPLB's own documentation: 12 experts in 4 groups, 4 replicas, 2 nodes of 4 ranks.
TEST(Eplb, MatchesThePublishedExample) {
  const std::vector<double> first{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86};
  const std::vector<double> second{20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27};
  const EplbShape shape{{{4, 4}}, 2, 4, 4};
  // On each rank two experts; ranks of a node and nodes in any order.
  const auto nodes_of = [](const std::vector<int>& slots) {
    std::set<std::multiset<std::multiset<int>>> nodes;
    for (int n = 0; n < 2; ++n) {
      std::multiset<std::multiset<int>> node;
      for (int r = 0; r < 4; ++r) node.insert({slots[n * 8 + r * 2], slots[n * 8 + r * 2 + 1]});
      nodes.insert(node);
    }
    return nodes;
  };
  EXPECT_EQ(nodes_of(eplb_layer(first, shape)), nodes_of({5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}));
  EXPECT_EQ(nodes_of(eplb_layer(second, shape)), nodes_of({7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}));
}

TEST(Eplb, GivesEveryExpertAnOwnerAndNoRankTheSameExpertTwice) {
  std::mt19937_64 random(23);
  for (int round = 0; round < 200; ++round) {
    const int experts = 1 + static_cast<int>(random() % 20);
    const Topology& topology = kTopologies[random() % kTopologies.size()];
    const int ranks = topology.ranks();
    const int replicas = static_cast<int>(random() % (experts * (ranks - 1) + 1));
    const EplbShape shape{topology, (experts + replicas + ranks - 1) / ranks, replicas,
                          1 + static_cast<int>(random() % 4)};
    std::vector<double> load(experts);
    for (double& rows : load) rows = static_cast<double>(random() % 100);
    Plan plan;
    plan.experts = experts;
    plan.top_k = 1;
    plan.layer_ids = {0};
    plan.topology = topology;
    plan.slots_per_rank = shape.slots_per_rank;
    plan.physical_to_logical = {eplb_layer(load, shape)};
    EXPECT_NO_THROW(validate(plan, "round " + std::to_string(round)));
  }
}

TEST(Eplb, ReplicasLightenTheHeaviestRank) {
  auto [trace, problem] = random_problem({.experts = 16}, {{4}}, 31);
  problem.objective = Objective::load;
  const Solution plain = make_eplb_solver()->solve(problem, {});
  EXPECT_TRUE(plain.owners.empty());
  problem.replicas = 8;
  const Solution replicated = make_eplb_solver()->solve(problem, {});
  EXPECT_EQ(check_limits(problem, replicated.owners), "");
  EXPECT_NEAR(replicated.value, evaluate(problem, replicated.owners), 1e-12);
  int copies = 0;
  for (const auto& ranks : replicated.owners[0]) copies += static_cast<int>(ranks.size());
  EXPECT_EQ(copies, 24);
}

}  // namespace
}  // namespace coterie
