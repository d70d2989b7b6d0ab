#include "runtime/dispatch.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <stdexcept>

namespace coterie {
namespace {

TEST(RowsByRank, ARowGoesOnceToEachRankOfItsExperts) {
  const Routing routing{3, {4, 1, 0, /**/ 2, 3, 5}, {0.5F, 0.3F, 0.2F, 0.6F, 0.3F, 0.1F}};
  const std::vector<int> destinations{0, 0, 1, 1, 2, 2};
  const auto rows = rows_by_rank(routing, destinations, 4);
  ASSERT_EQ(rows.size(), 4U);
  EXPECT_EQ(rows[0].rows, (std::vector<std::int32_t>{0}));
  EXPECT_EQ(rows[1].rows, (std::vector<std::int32_t>{1}));
  EXPECT_EQ(rows[2].rows, (std::vector<std::int32_t>{0, 1}));
  EXPECT_TRUE(rows[3].rows.empty());
  ASSERT_EQ(rows[0].routes.size(), 3U);
  EXPECT_EQ(rows[0].routes[0].expert, 1);  // by falling weight
  EXPECT_EQ(rows[0].routes[1].expert, 0);
  EXPECT_EQ(rows[0].routes[2].expert, Route::kNone);
  EXPECT_FLOAT_EQ(rows[2].routes[3].weight, 0.1F);
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
    const auto rows = rows_by_rank(routing, destinations, ranks);
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
