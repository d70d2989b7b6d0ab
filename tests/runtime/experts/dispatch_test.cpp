#include "runtime/experts/dispatch.hpp"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <random>
#include <stdexcept>

namespace coterie {
namespace {

/// One decode row for each home.
Batch decode_rows(const std::vector<int>& homes) {
  Batch batch;
  for (std::size_t i = 0; i < homes.size(); ++i) {
    const auto row = static_cast<std::int32_t>(i);
    batch.sequences.push_back(
        {.request = row + 1, .home = homes[i], .here = true, .first_row = row, .rows = 1, .blocks = {}});
    batch.tokens.push_back(0);
    batch.sequence.push_back(row);
    batch.sampled.push_back(1);
  }
  return batch;
}

std::vector<std::int32_t> all_rows(const Batch& batch) {
  std::vector<std::int32_t> rows(batch.tokens.size());
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

/// Expert e of the one layer on rank owner[e].
Ownership owned_by(const std::vector<int>& owner, int ranks) {
  Plan plan = contiguous_plan("m", {0}, static_cast<int>(owner.size()), 1, Topology{{ranks}});
  plan.slots_per_rank = plan.experts;
  plan.physical_to_logical.assign(1,
                                  std::vector<int>(static_cast<std::size_t>(ranks) * owner.size(), Plan::kEmptySlot));
  for (std::size_t e = 0; e < owner.size(); ++e)
    plan.physical_to_logical[0][owner[e] * owner.size() + e] = static_cast<int>(e);
  return Ownership(plan, 0, std::vector<int>(ranks, 0));
}

/// The one layer, nothing spilled.
RowPlan planned(const Batch& batch, const Routing& routing, const Ownership& ownership, const Domains& domains) {
  const auto rows = all_rows(batch);
  return plan_rows(batch, rows, routing, owners_of(batch, rows, routing, 0, ownership, domains), domains);
}

TEST(LandingRank, TheLargestShareInTheDomain) {
  const Domains nodes(Coherence::node, 0, std::vector<int>{0, 0, 1, 1});
  EXPECT_EQ(landing_rank(std::vector<Share>{{0, 0.3F}, {1, 0.7F}}, nodes, 0), 1);
  EXPECT_EQ(landing_rank(std::vector<Share>{{0, 0.3F}, {3, 0.7F}}, nodes, 0), 0);  // 3 is outside
  EXPECT_EQ(landing_rank(std::vector<Share>{{2, 0.5F}, {3, 0.5F}}, nodes, 1), 1);  // none is inside: home
  EXPECT_EQ(landing_rank(std::vector<Share>{{1, 0.5F}, {0, 0.5F}}, nodes, 1), 0);  // a tie: the lower rank
  const Domains ranks(Coherence::rank, 0, std::vector<int>{0, 0});
  EXPECT_EQ(landing_rank(std::vector<Share>{{1, 1.0F}}, ranks, 0), 0);  // plain expert parallelism: always home
}

TEST(PlanRows, ARowGoesOnceToEachRankOfItsExperts) {
  const Routing routing{3, {4, 1, 0, /**/ 2, 3, 5}, {0.5F, 0.3F, 0.2F, 0.6F, 0.3F, 0.1F}};
  const Batch batch = decode_rows({0, 0});
  const Domains plain(Coherence::rank, 0, std::vector<int>(4, 0));
  const RowPlan plan = planned(batch, routing, owned_by({0, 0, 1, 1, 2, 2}, 4), plain);
  ASSERT_EQ(plan.to.size(), 4U);
  EXPECT_EQ(plan.to[0].rows, (std::vector<std::int32_t>{0}));
  EXPECT_EQ(plan.to[1].rows, (std::vector<std::int32_t>{1}));
  EXPECT_EQ(plan.to[2].rows, (std::vector<std::int32_t>{0, 1}));
  EXPECT_TRUE(plan.to[3].rows.empty());
  ASSERT_EQ(plan.to[0].routes.size(), 3U);
  EXPECT_EQ(plan.to[0].routes[0].expert, 1);  // by falling weight
  EXPECT_EQ(plan.to[0].routes[1].expert, 0);
  EXPECT_EQ(plan.to[0].routes[2].expert, Route::kNone);
  EXPECT_FLOAT_EQ(plan.to[2].routes[3].weight, 0.1F);
  EXPECT_EQ(plan.stay, (std::vector<std::int32_t>{0, 1}));
  EXPECT_TRUE(plan.partial_sums);
}

TEST(PlanRows, ATokenGoesOnWhereItsExpertIs) {
  const Routing routing{1, {2, 0}, {1.0F, 1.0F}};
  const Batch batch = decode_rows({0, 0});
  const Domains world(Coherence::world, 0, std::vector<int>(3, 0));
  const RowPlan plan = planned(batch, routing, owned_by({0, 1, 2}, 3), world);
  EXPECT_EQ(plan.stay, (std::vector<std::int32_t>{1}));
  EXPECT_EQ(plan.to[2].tags.at(0).landing, 2);
  EXPECT_FALSE(plan.partial_sums);
}

TEST(PlanRows, OutsideTheDomainARowComesBackToARankInside) {
  const Routing routing{1, {3}, {1.0F}};
  Batch batch = decode_rows({1});
  const Domains nodes(Coherence::node, 0, std::vector<int>{0, 0, 1, 1});
  const RowPlan plan = planned(batch, routing, owned_by({0, 1, 2, 3}, 4), nodes);
  EXPECT_EQ(plan.to[3].tags.at(0).landing, 1);
  ASSERT_EQ(plan.to[1].rows.size(), 1U);  // home gets the row itself, without experts
  EXPECT_EQ(plan.to[1].routes.at(0).expert, Route::kNone);
  EXPECT_TRUE(plan.stay.empty());
  EXPECT_TRUE(plan.partial_sums);

  batch.sequences[0].prompt = true;  // prompts come home wherever their experts are
  const Domains world(Coherence::world, 0, std::vector<int>(4, 0));
  EXPECT_EQ(planned(batch, routing, owned_by({0, 1, 2, 3}, 4), world).to[3].tags.at(0).landing, 1);
}

TEST(PlanRows, AReplicatedRowIsDispatchedNowhereInsideItsDomain) {
  const Routing routing{2, {0, 1}, {0.6F, 0.4F}};
  Batch batch = decode_rows({1});
  batch.sequences[0].replicated = true;
  const Domains world(Coherence::world, 0, std::vector<int>(3, 0));
  const RowPlan plan = planned(batch, routing, owned_by({0, 1, 2}, 3), world);
  EXPECT_EQ(plan.to[0].tags.at(0).landing, RowTag::kEverywhere);
  EXPECT_EQ(plan.to[0].routes.at(0).expert, 0);
  EXPECT_EQ(plan.to[0].routes.at(1).expert, Route::kNone);
  EXPECT_TRUE(plan.to[1].rows.empty());
  EXPECT_EQ(plan.stay, (std::vector<std::int32_t>{0}));
}

TEST(PlanRows, ASpilledRowGoesOnWhereItIsComputed) {
  const Routing routing{2, {0, 1, /**/ 0, 1}, {0.6F, 0.4F, /**/ 0.6F, 0.4F}};
  const Batch batch = decode_rows({0, 0});
  const Domains world(Coherence::world, 0, std::vector<int>(3, 0));
  const ChoiceRanks ranks{{1, 1, /**/ 1, 1}, {2, 1, /**/ 2, 2}};  // rank 2 helps rank 1
  const RowPlan plan = plan_rows(batch, all_rows(batch), routing, ranks, world);
  EXPECT_EQ(plan.to[1].rows, (std::vector<std::int32_t>{0}));
  EXPECT_EQ(plan.to[2].rows, (std::vector<std::int32_t>{0, 1}));
  EXPECT_EQ(plan.to[2].tags.at(0).landing, 2);
  EXPECT_EQ(plan.to[2].tags.at(1).landing, 2);
  // Rank 1's sum of the first row is computed in two places, that of the second in one.
  EXPECT_EQ(plan.to[2].routes.at(0).place, 0);
  EXPECT_EQ(plan.to[1].routes.at(0).place, 1);
  for (const int j : {2, 3}) {
    EXPECT_EQ(plan.to[2].routes.at(j).place, Route::kWhole);
    EXPECT_EQ(plan.to[2].routes.at(j).owner, 1);
  }
}

TEST(JoinedRanks, AllWhereExpertsAreSpread) {
  const Domains nodes(Coherence::node, 1, std::vector<int>{0, 0, 1, 1});
  EXPECT_EQ(joined_ranks(0, owned_by({0, 1, 2, 3}, 4), nodes), (std::vector<int>{0, 1, 2, 3}));
  const Domains plain(Coherence::rank, 1, std::vector<int>{0, 0, 1, 1});
  EXPECT_EQ(joined_ranks(0, owned_by({0, 1, 2, 3}, 4), plain), (std::vector<int>{0, 1, 2, 3}));
}

TEST(JoinedRanks, OfANodeWhereItHasAllExperts) {
  const std::vector<int> node_of_rank{0, 0, 1, 1};
  Plan plan = contiguous_plan("m", {0, 1}, 4, 1, Topology{{2, 2}});
  plan.slots_per_rank = 2;
  plan.physical_to_logical = {{0, 1, 2, 3, /**/ 3, 1, 2, 0}, {0, 1, 2, 3, /**/ 3, 1, 2, Plan::kEmptySlot}};
  for (int rank = 0; rank < 4; ++rank) {
    const Ownership ownership(plan, rank, node_of_rank);
    const Domains nodes(Coherence::node, rank, node_of_rank);
    EXPECT_EQ(joined_ranks(0, ownership, nodes), rank < 2 ? (std::vector<int>{0, 1}) : (std::vector<int>{2, 3}));
    // In the other layer the second node lacks an expert.
    EXPECT_EQ(joined_ranks(1, ownership, nodes), (std::vector<int>{0, 1, 2, 3}));
    const Domains world(Coherence::world, rank, node_of_rank);
    EXPECT_EQ(joined_ranks(0, ownership, world), (std::vector<int>{0, 1, 2, 3}));
  }
}

TEST(GroupByExpert, NoRows) {
  const GroupedRows groups = group_by_expert({}, 2, 8);
  EXPECT_TRUE(groups.arrived.empty());
  EXPECT_TRUE(groups.experts.empty());
  EXPECT_EQ(groups.offsets, (std::vector<std::int64_t>{0}));
}

TEST(GroupByExpert, RefusesAnExpertThatIsNotThere) {
  const std::vector<Route> routes{{8, 1.0F}};
  EXPECT_THROW((void)group_by_expert(routes, 1, 8), std::invalid_argument);
}

TEST(GroupByExpert, AllRowsToOneExpert) {
  const std::vector<Route> routes(5, Route{3, 1.0F});
  const GroupedRows groups = group_by_expert(routes, 1, 8);
  EXPECT_EQ(groups.experts, (std::vector<std::int32_t>{3}));
  EXPECT_EQ(groups.first, (std::vector<std::int64_t>{0, 5}));
  EXPECT_EQ(groups.arrived, (std::vector<std::int32_t>{0, 1, 2, 3, 4}));
}

TEST(Dispatch, EveryChoiceIsComputedOnceWhateverTheSkew) {
  for (std::uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const int experts = 1 + static_cast<int>(random() % 20);
    const int top_k = 1 + static_cast<int>(random() % static_cast<unsigned>(experts));
    const int ranks = 1 + static_cast<int>(random() % 6);
    const int tokens = static_cast<int>(random() % 30);

    std::vector<int> destinations;
    for (int e = 0; e < experts; ++e) destinations.push_back(static_cast<int>(random() % static_cast<unsigned>(ranks)));
    std::vector<std::int32_t> all(experts);
    for (int e = 0; e < experts; ++e) all[e] = e;
    Routing routing{top_k, {}, {}};
    for (int t = 0; t < tokens; ++t) {
      std::shuffle(all.begin(), all.end(), random);
      for (int j = 0; j < top_k; ++j) {
        routing.experts.push_back(all[j]);
        routing.weights.push_back(static_cast<float>(t * 100 + all[j]));
      }
    }

    std::map<std::pair<int, int>, int> computed;  // (token, expert) -> times
    const Batch batch = decode_rows(std::vector<int>(tokens, 0));
    const Domains domains(seed % 2 == 0 ? Coherence::rank : Coherence::world, 0, std::vector<int>(ranks, 0));
    const auto rows = planned(batch, routing, owned_by(destinations, ranks), domains).to;
    for (int r = 0; r < ranks; ++r) {
      const GroupedRows groups = group_by_expert(rows[r].routes, top_k, experts);
      ASSERT_EQ(groups.offsets.size(), rows[r].rows.size() + 1);
      ASSERT_EQ(groups.first.size(), groups.experts.size() + 1);
      for (std::size_t g = 0; g < groups.experts.size(); ++g) {
        EXPECT_EQ(destinations[groups.experts[g]], r);
        for (std::int64_t i = groups.first[g]; i < groups.first[g + 1]; ++i) {
          ++computed[{rows[r].rows[groups.arrived[i]], groups.experts[g]}];
        }
      }
      for (std::size_t row = 0; row < rows[r].rows.size(); ++row) {
        for (std::int64_t c = groups.offsets[row]; c < groups.offsets[row + 1]; ++c) {
          const Contribution& contribution = groups.contributions[c];
          EXPECT_EQ(groups.arrived[contribution.row], static_cast<std::int32_t>(row));
          const auto group = std::upper_bound(groups.first.begin(), groups.first.end(), contribution.row) - 1;
          const int expert = groups.experts[group - groups.first.begin()];
          EXPECT_EQ(contribution.weight, static_cast<float>(rows[r].rows[row] * 100 + expert));
        }
      }
    }
    EXPECT_EQ(computed.size(), static_cast<std::size_t>(tokens * top_k));
    for (const auto& [choice, times] : computed) EXPECT_EQ(times, 1);
  }
}

}  // namespace
}  // namespace coterie
