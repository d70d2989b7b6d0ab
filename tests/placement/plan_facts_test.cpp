#include "placement/plan_facts.hpp"

#include "tests/placement/random_problem.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace coterie {
namespace {

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

TEST(PlanFacts, RowsBetweenRanksAddUpToTheFiguresForEveryDomainWithAndWithoutReplicas) {
  for (const Domain domain : {Domain::rank, Domain::node, Domain::world}) {
    for (const int replicas : {0, 5}) {
      auto [trace, problem] = random_problem({.weights = true}, {{2, 3, 1}}, 7);
      problem.domain = domain;
      const PlanFacts facts = facts_of(problem, random_owners(problem, replicas, 3));
      const auto node = problem.topology.node_of_rank();
      double rows = 0;
      double between = 0;
      for (int a = 0; a < problem.ranks(); ++a) {
        EXPECT_EQ(facts.traffic[a * problem.ranks() + a], 0);
        for (int b = 0; b < problem.ranks(); ++b) {
          rows += facts.traffic[a * problem.ranks() + b];
          if (node[a] != node[b]) between += facts.traffic[a * problem.ranks() + b];
        }
      }
      EXPECT_NEAR(rows, facts.figures.rows, 1e-9) << name_of(domain) << ", replicas " << replicas;
      EXPECT_NEAR(between, facts.figures.rows_between, 1e-9) << name_of(domain) << ", replicas " << replicas;
    }
  }
}

TEST(PlanFacts, WithDomainRankEveryRowThatLeavesHomeComesBack) {
  auto [trace, problem] = random_problem({}, {{4}}, 11);
  problem.domain = Domain::rank;
  const PlanFacts facts = facts_of(problem, random_owners(problem, 0, 5));
  for (int a = 0; a < 4; ++a) {
    for (int b = 0; b < 4; ++b) EXPECT_NEAR(facts.traffic[a * 4 + b], facts.traffic[b * 4 + a], 1e-9);
  }
}

TEST(PlanFacts, ATokenThatAlwaysUsesOneRankSendsNothingAndStays) {
  auto [trace, problem] = random_problem({.tokens = 50, .layers = 3, .experts = 4, .top_k = 1}, {{2}}, 1);
  for (auto& e : trace->experts) e = 2;
  problem.statistics = plain_statistics(*trace);
  const Owners owners = owners_of(Assignment(3, {0, 0, 1, 1}));
  const PlanFacts facts = facts_of(problem, owners);
  // Half of the homes are on rank 0: one row to rank 1 at the first layer, none afterwards.
  EXPECT_NEAR(facts.traffic[0 * 2 + 1], 0.5 / 3, 1e-12);
  EXPECT_EQ(facts.traffic[1 * 2 + 0], 0);
  EXPECT_EQ(facts.moves, (std::vector<double>{0, 0, 0, 1, 0, 0, 0, 1}));
  EXPECT_EQ(facts.stays, (std::vector<double>{1, 1}));
  EXPECT_EQ(facts.load, (std::vector<double>{0, 2, 0, 2, 0, 2}));
  EXPECT_EQ(facts.held, (std::vector<int>{2, 2, 2, 2, 2, 2}));
}

TEST(PlanFacts, MovesCountEveryTokenOnceAtEveryStep) {
  auto [trace, problem] = random_problem({.layers = 5}, {{2, 2}}, 13);
  problem.domain = Domain::node;
  const PlanFacts facts = facts_of(problem, random_owners(problem, 3, 9));
  const auto groups = static_cast<std::ptrdiff_t>(facts.groups.names.size());
  ASSERT_EQ(groups, 4);
  ASSERT_EQ(static_cast<std::ptrdiff_t>(facts.moves.size()), 4 * groups * groups);
  for (int step = 0; step < 4; ++step) {
    const auto begin = facts.moves.begin() + step * groups * groups;
    EXPECT_NEAR(std::accumulate(begin, begin + groups * groups, 0.0), 1.0, 1e-9);
    if (step == 3) continue;
    for (std::ptrdiff_t g = 0; g < groups; ++g) {  // whoever arrives at g leaves from g
      double arrive = 0;
      double leave = 0;
      for (std::ptrdiff_t h = 0; h < groups; ++h) {
        arrive += *(begin + h * groups + g);
        leave += *(begin + (groups + g) * groups + h);
      }
      EXPECT_NEAR(arrive, leave, 1e-9);
    }
  }
  EXPECT_LE(facts.replicas, 5 * 3);
  EXPECT_GT(facts.replicas, 0);
}

TEST(PlanFacts, TheShareThatStaysIsTheMeanOverLayersOfEqualWeight) {
  auto [trace, problem] = random_problem({.top_k = 1}, {{3}}, 17);
  const PlanFacts facts = facts_of(problem, random_owners(problem, 0, 2));
  double kept = 0;
  double total = 0;
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    const auto weight = problem.statistics.affinity_at(l);
    const double all = std::accumulate(weight.begin(), weight.end(), 0.0);
    kept += all * facts.stays[l];
    total += all;
  }
  EXPECT_NEAR(kept / total, facts.figures.stays, 1e-12);
}

TEST(PlanFacts, AreKnownInPartWithoutTokens) {
  auto [trace, problem] = random_problem({}, {{3}}, 19);
  problem.objective = Objective::load;
  problem.traces.clear();
  problem.statistics.affinity.clear();
  problem.statistics.coactivation.clear();
  const PlanFacts facts = facts_of(problem, random_owners(problem, 0, 2));
  EXPECT_TRUE(facts.traffic.empty());
  EXPECT_TRUE(facts.moves.empty());
  EXPECT_TRUE(facts.stays.empty());
  EXPECT_NEAR(sum(facts.load), 3.0 * problem.layers(), 1e-9);
}

TEST(PlanFacts, GroupsAreRanksThenNodesThenRuns) {
  EXPECT_EQ(group_ranks({{3, 2}}).names.size(), 5U);
  const RankGroups nodes = group_ranks({std::vector<int>(8, 8)});
  EXPECT_EQ(nodes.names.size(), 8U);
  EXPECT_EQ(nodes.names[3], "node 3");
  EXPECT_EQ(nodes.group_of_rank[31], 3);
  const RankGroups runs = group_ranks({{64}});
  EXPECT_EQ(runs.names.size(), 16U);
  EXPECT_EQ(runs.names[1], "ranks 4-7");
  const RankGroups many = group_ranks({std::vector<int>(40, 1)});
  EXPECT_LE(many.names.size(), 16U);
  EXPECT_EQ(many.group_of_rank.back(), static_cast<int>(many.names.size()) - 1);
}

TEST(PlanFacts, OwnersOfAPlanAreTheRanksOfItsSlots) {
  Plan plan = contiguous_plan("m", {0}, 3, 1, {{2}});
  plan.slots_per_rank = 3;
  plan.physical_to_logical = {{0, 1, Plan::kEmptySlot, 2, 0, Plan::kEmptySlot}};
  EXPECT_EQ(owners_of(plan), (Owners{{{0, 1}, {0}, {1}}}));
}

}  // namespace
}  // namespace coterie
