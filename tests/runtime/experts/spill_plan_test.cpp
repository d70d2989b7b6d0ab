#include "runtime/experts/spill_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <stdexcept>

namespace coterie {
namespace {

/// Every expert on one rank, in order.
DispatchLayer contiguous(int ranks, int experts) {
  std::vector<int> destinations;
  std::vector<std::uint8_t> held;
  for (int r = 0; r < ranks; ++r) {
    for (int e = 0; e < experts; ++e) destinations.push_back(e * ranks / experts);
  }
  for (int e = 0; e < experts; ++e) {
    for (int r = 0; r < ranks; ++r) held.push_back(e * ranks / experts == r ? 1 : 0);
  }
  return {std::vector<int>(ranks, 0), std::move(destinations), std::move(held)};
}

TEST(SpillPlan, ChoicesAreCounted) {
  EXPECT_EQ(count_choices(std::vector<std::int32_t>{2, 0, 2, -1}, 4), (std::vector<std::int32_t>{1, 0, 2, 0}));
  EXPECT_THROW((void)count_choices(std::vector<std::int32_t>{4}, 4), std::invalid_argument);
}

TEST(SpillPlan, RowsOfAnExpertAreNumberedThroughTheRanks) {
  DispatchPlan plan;
  plan.parts = {{0, 0, 0, 1}, {0, 2, 1, 4}, {0, 1, 4, 5}, {1, 1, 0, 2}};
  plan.transfers = {{0, 0, 2}, {0, 0, 1}};
  const std::vector<std::int32_t> counts{2, 1, /**/ 0, 0, /**/ 3, 1};  // three ranks, two experts
  EXPECT_EQ(ranks_of_choices(plan, counts, 2, 0, std::vector<std::int32_t>{0, 1, 0, -1}),
            (std::vector<int>{0, 1, 2, -1}));
  EXPECT_TRUE(ranks_of_choices(plan, counts, 2, 1, {}).empty());
  EXPECT_EQ(ranks_of_choices(plan, counts, 2, 2, std::vector<std::int32_t>{0, 0, 0, 1}),
            (std::vector<int>{2, 2, 1, 1}));
  EXPECT_EQ(transfers_of(plan, 0).gives, (std::vector<DispatchTransfer>{{0, 0, 1}, {0, 0, 2}}));
  EXPECT_TRUE(transfers_of(plan, 0).gets.empty());
  EXPECT_EQ(transfers_of(plan, 2).gets, (std::vector<DispatchTransfer>{{0, 0, 2}}));
  EXPECT_EQ(rows_after(plan, 3), (std::vector<std::int64_t>{1, 3, 3}));
  EXPECT_THROW((void)ranks_of_choices(plan, counts, 2, 2, std::vector<std::int32_t>{0, 0, 0, 0}),
               std::invalid_argument);
}

TEST(SpillPlan, RandomPlansAreCarriedOutToTheRow) {
  std::mt19937 random(5);
  for (int round = 0; round < 50; ++round) {
    const int ranks = 2 + static_cast<int>(random() % 5), experts = ranks * (1 + static_cast<int>(random() % 4));
    const DispatchLayer layer = contiguous(ranks, experts);
    std::vector<std::vector<std::int32_t>> choices(ranks);  // of each rank
    std::vector<std::int32_t> counts;
    for (auto& of_rank : choices) {
      of_rank.resize(random() % 60);
      const auto hot = static_cast<std::int32_t>(random() % experts);
      for (auto& e : of_rank) e = random() % 3 == 0 ? static_cast<std::int32_t>(random() % experts) : hot;
      const auto mine = count_choices(of_rank, experts);
      counts.insert(counts.end(), mine.begin(), mine.end());
    }
    DispatchPlanner planner({.row = 100, .expert = 10, .row_inside = 1, .weights_inside = 50}, {});
    const DispatchPlan& plan = planner.plan(layer, counts);
    std::vector<std::int64_t> computed(ranks, 0);
    for (int r = 0; r < ranks; ++r) {
      const auto of_choice = ranks_of_choices(plan, counts, experts, r, choices[r]);
      for (std::size_t i = 0; i < of_choice.size(); ++i) {
        ++computed[of_choice[i]];
        const auto gets = transfers_of(plan, of_choice[i]).gets;
        const int e = choices[r][i];
        EXPECT_TRUE(layer.only_holder[e] == of_choice[i] ||
                    std::any_of(gets.begin(), gets.end(), [&](const auto& get) { return get.expert == e; }));
      }
    }
    EXPECT_EQ(computed, rows_after(plan, ranks));
    const auto before = rows_before(layer, counts), after = rows_after(plan, ranks);
    EXPECT_LE(*std::max_element(after.begin(), after.end()), *std::max_element(before.begin(), before.end()));
  }
}

}  // namespace
}  // namespace coterie
