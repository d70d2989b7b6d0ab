#include "placement/dispatch/plan_dispatch.hpp"

#include "placement/splitmix.hpp"
#include "tests/placement/dispatch/dispatch_case.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <map>
#include <new>
#include <numeric>
#include <string>

namespace {

std::atomic<std::int64_t> allocations = 0;

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}

namespace coterie {
namespace {

DispatchCase random_case(SplitMix& random) {
  const int ranks = 1 + random.below(9), experts = ranks * (1 + random.below(4));
  const int per_node = 1 + random.below(ranks);
  DispatchCase c{layer_of(ranks, experts, per_node, random.below(3) == 0 ? random.below(experts) : 0), {}, {}, {}};
  fill_at_random(c, random, {.least = 1, .hotter = 100, .empty = 3, .cached = 2});
  return c;
}

TEST(PlanDispatch, EveryRowIsComputedOnceWhereTheWeightsAre) {
  const std::uint64_t seed = 11;
  SplitMix random(seed);
  DispatchPlanner again({1, 0, 0, 0, 0, 0}, {});
  int spilled = 0;
  for (int round = 0; round < 3000; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    const DispatchCase c = random_case(random);
    DispatchOptions options;
    options.policy = DispatchPolicy::plain;
    const DispatchPlan plain = planned(c, options);
    expect_valid(c, plain);
    EXPECT_TRUE(plain.transfers.empty());
    EXPECT_EQ(plain.after, plain.before);

    expect_valid(c, planned(c, llep_options(random.below(50))));

    options.policy = DispatchPolicy::least_loaded;
    options.most_arrivals = random.below(3) == 0 ? random.below(3) : 1000;
    const DispatchPlan plan = planned(c, options);
    expect_valid(c, plan);
    EXPECT_EQ(plan.before, plain.after);
    EXPECT_LE(plan.after, plan.before);
    std::map<int, int> arrivals;
    for (const DispatchTransfer& t : plan.transfers) EXPECT_LE(++arrivals[t.to], options.most_arrivals);
    spilled += plan.stayed == DispatchPlan::Stayed::spilled ? 1 : 0;
    EXPECT_EQ(plan.stayed == DispatchPlan::Stayed::spilled, plan.after < plan.before);
    if (HasFailure()) return;
  }
  EXPECT_GT(spilled, 500);
}

TEST(PlanDispatch, APlannerThatIsUsedAgainSaysTheSame) {
  SplitMix random(12);
  const DispatchCase a = random_case(random), b = random_case(random);
  DispatchPlanner planner(a.costs, {});
  const DispatchPlan first = planner.plan(a.layer, a.counts, a.cached);
  static_cast<void>(planner.plan(b.layer, b.counts, b.cached));
  const DispatchPlan& second = planner.plan(a.layer, a.counts, a.cached);
  EXPECT_EQ(first.parts, second.parts);
  EXPECT_EQ(first.transfers, second.transfers);
  EXPECT_EQ(first.after, second.after);
}

TEST(PlanDispatch, TheOrderOfRanksInsideANodeDoesNotMatter) {
  const std::uint64_t seed = 13;
  SplitMix random(seed);
  for (int round = 0; round < 500; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    const DispatchCase c = random_case(random), moved = reordered(c, random);
    const DispatchPlan a = planned(c), b = planned(moved);
    EXPECT_EQ(a.before, b.before);
    EXPECT_EQ(a.after, b.after);
    EXPECT_EQ(a.transfers.size(), b.transfers.size());
  }
}

TEST(PlanDispatch, CountsAreLeftOutOnlyWhereNoPlanSavesMore) {
  const std::uint64_t seed = 23;
  SplitMix random(seed);
  int left_out = 0, could_save = 0;
  for (int round = 0; round < 4000; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    DispatchCase c = random_case(random);
    const int fewer = 1 << random.below(10), one = random.below(2) == 0 ? random.below(c.layer.experts) : -1;
    for (int r = 0; r < c.layer.ranks; ++r) {
      for (int e = 0; e < c.layer.experts; ++e) {
        std::int32_t& count = c.counts[static_cast<std::size_t>(r) * c.layer.experts + e];
        count = one >= 0 && e != one ? 0 : count / fewer;
      }
    }
    const std::int64_t rows = std::accumulate(c.counts.begin(), c.counts.end(), std::int64_t{0});
    const bool spare = c.layer.holders > c.layer.experts ||
                       std::any_of(c.cached.begin(), c.cached.end(), [](std::uint8_t cached) { return cached != 0; });
    const DispatchPlan plan = planned(c);
    const std::int64_t saved = plan.before - plan.after;
    const std::int64_t beyond = random.below(2) == 0 ? 0 : random.below(200'000);
    if (spill_may_pay(c.costs, rows, spare, beyond)) {
      could_save += saved > beyond ? 1 : 0;
    } else {
      EXPECT_LE(saved, beyond) << rows << " rows";
      ++left_out;
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(left_out, 400);
  EXPECT_GT(could_save, 400);
}

TEST(PlanDispatch, WhereWeightsTravelFewRowsAreNotWorthTheirCounts) {
  const DispatchCosts costs{100, 20, 0, 0, 1000, 5000};
  EXPECT_FALSE(spill_may_pay(costs, 9, false)) << "900 and 20 for an expert, against 1,000 for its weights";
  EXPECT_TRUE(spill_may_pay(costs, 10, false));
  EXPECT_FALSE(spill_may_pay(costs, 10, false, 20));
  EXPECT_TRUE(spill_may_pay(costs, 2, true)) << "someone else may have the weights";
  EXPECT_FALSE(spill_may_pay(costs, 2, true, 240)) << "two rows of two experts";
}

DispatchCase even_case(int ranks, int experts, std::int32_t rows_each) {
  return {layer_of(ranks, experts, std::max(1, ranks / 2)),
          {100, 0, 0, 0, 1000, 1000},
          std::vector<std::int32_t>(static_cast<std::size_t>(ranks) * experts, rows_each),
          {}};
}

TEST(PlanDispatch, NothingIsSpilledWithoutNeed) {
  for (const std::int32_t rows : {0, 1, 100}) {
    const DispatchPlan plan = planned(even_case(8, 16, rows));
    EXPECT_EQ(plan.stayed, DispatchPlan::Stayed::balanced);
    EXPECT_TRUE(plan.transfers.empty());
    EXPECT_EQ(plan.parts.size(), rows == 0 ? 0U : 16U);
  }
  DispatchCase alone = even_case(1, 4, 10);
  expect_valid(alone, planned(alone));
  DispatchCase dear = even_case(4, 4, 10);
  for (int r = 0; r < 4; ++r) dear.counts[static_cast<std::size_t>(r) * 4] = 100;
  dear.costs.weights_inside = dear.costs.weights_between = 1'000'000;
  EXPECT_EQ(planned(dear).stayed, DispatchPlan::Stayed::not_worth_it);
  EXPECT_FALSE(spill_may_pay(dear.costs, 520, false));
  dear.cached.assign(16, 0);
  dear.cached[1] = 1;
  const DispatchPlan plan = planned(dear);
  EXPECT_EQ(plan.stayed, DispatchPlan::Stayed::spilled);
  EXPECT_TRUE(plan.transfers.empty());
  EXPECT_EQ(plan.after, 22'000) << "rank 1, which has the weights, takes half of what is too much";
}

TEST(PlanDispatch, AnExpertCanGoToEveryRank) {
  DispatchCase c = even_case(16, 16, 0);
  for (int r = 0; r < 16; ++r) c.counts[static_cast<std::size_t>(r) * 16] = 1000;
  const DispatchPlan plan = planned(c);
  expect_valid(c, plan);
  EXPECT_EQ(plan.transfers.size(), 15U);
  EXPECT_LE(plan.after, 1'600'000 / 16 + 15'000 + 2000);
}

TEST(PlanDispatch, OneIdleRankHelpsAllOthers) {
  DispatchCase c = even_case(8, 8, 100);
  for (int r = 0; r < 8; ++r) c.counts[static_cast<std::size_t>(r) * 8 + 7] = 0;
  const DispatchPlan plan = planned(c);
  expect_valid(c, plan);
  EXPECT_EQ(plan.transfers.size(), 7U);
  for (const DispatchTransfer& t : plan.transfers) EXPECT_EQ(t.to, 7);
  EXPECT_LE(plan.after, 80'000 * 7 / 8 + 7 * 1000 + 1000);
}

TEST(PlanDispatch, RowsThatLieOnAHelperAreComputedThere) {
  DispatchCase c = even_case(4, 4, 0);
  c.costs.row_inside = 10;
  c.costs.row_between = 50;
  for (int r = 0; r < 4; ++r) c.counts[static_cast<std::size_t>(r) * 4] = 1000;
  const DispatchPlan plan = planned(c);
  expect_valid(c, plan);
  ASSERT_EQ(plan.transfers.size(), 3U);
  std::int64_t stay = 0;
  for (const DispatchPart& part : plan.parts) {
    const std::int64_t begin = 1000 * part.rank;
    stay += std::max<std::int64_t>(0, std::min(part.to, begin + 1000) - std::max(part.from, begin));
  }
  EXPECT_GE(stay, 3900);
}

TEST(PlanDispatch, LlepIsAsThePaperStatesIt) {
  // One rank has an expert of 12,000 rows, the mean is 4,000: it keeps its capacity, two chunks of it go to the least
  // loaded, which is then full.
  DispatchCase c = even_case(4, 4, 0);
  const std::array<std::int32_t, 4> rows{12'000, 1000, 2000, 1000};
  for (int e = 0; e < 4; ++e) c.counts[static_cast<std::size_t>(e) * 4 + e] = rows[e];
  const DispatchPlan plan = planned(c, llep_options());
  EXPECT_EQ(plan.parts, (std::vector<DispatchPart>{{0, 0, 0, 4000},
                                                   {0, 1, 4000, 7000},
                                                   {0, 3, 7000, 10'000},
                                                   {0, 2, 10'000, 12'000},
                                                   {1, 1, 0, 1000},
                                                   {2, 2, 0, 2000},
                                                   {3, 3, 0, 1000}}));
  EXPECT_EQ(plan.transfers, (std::vector<DispatchTransfer>{{0, 0, 1}, {0, 0, 3}, {0, 0, 2}}));
  // A chunk below the smallest is passed over, and the least loaded takes all that nobody fits.
  const DispatchPlan coarse = planned(c, llep_options(3500));
  EXPECT_EQ(coarse.parts[1], (DispatchPart{0, 1, 4000, 12'000}));
  DispatchOptions high = llep_options();
  high.llep_threshold = 3.1;
  EXPECT_EQ(planned(c, high).stayed, DispatchPlan::Stayed::balanced);
}

TEST(PlanDispatch, AllocatesOnlyAtTheFirstCall) {
  SplitMix random(19);
  for (const int ranks : {4, 16, 64}) {
    for (const std::int64_t way : {0, 10}) {  // of rows beside 100 for their products
      DispatchCase c = even_case(ranks, 4 * ranks, 0);
      c.costs.row_inside = way;
      c.costs.row_between = 8 * way;
      DispatchPlanner planner(c.costs, {});
      const auto fill = [&](int few) {
        for (std::int32_t& count : c.counts) count = random.below(1000) * (random.below(few) == 0 ? 50 : 1);
      };
      fill(30);
      static_cast<void>(planner.plan(c.layer, c.counts));
      for (int round = 0; round < 60; ++round) {
        fill(2 + round);
        const std::int64_t before = allocations;
        static_cast<void>(planner.plan(c.layer, c.counts));
        EXPECT_EQ(allocations, before) << ranks << " ranks, round " << round;
      }
    }
  }
}

TEST(PlanDispatch, CostsComeFromWhatWasMeasured) {
  Machine machine;
  machine.inside_node = {1e-6, 4e11};
  machine.between_nodes = Link{2e-6, 5e10};
  machine.gemm = {{16, 1e13}, {4096, 5e14}};
  const DispatchCosts costs = dispatch_costs(machine, 1000, 500, 4'000'000, 4000);
  EXPECT_EQ(costs.row, 6000);             // 3e6 FLOP at 5e14 a second
  EXPECT_EQ(costs.expert, 16 * 294'000);  // what 16 rows take beyond that
  EXPECT_EQ(costs.row_inside, 10'000);    // 4,000 bytes at 4e11
  EXPECT_EQ(costs.row_between, 80'000);
  EXPECT_EQ(costs.weights_inside, 11'000'000);
  EXPECT_EQ(costs.weights_between, 82'000'000);
}

}  // namespace
}  // namespace coterie
