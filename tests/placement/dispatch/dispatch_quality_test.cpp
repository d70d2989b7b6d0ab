// Dispatch plans beside the best there is and beside LLEP's.
#include "placement/splitmix.hpp"
#include "placement/trace/trace.hpp"
#include "tests/placement/dispatch/dispatch_case.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>

namespace coterie {
namespace {

/// The best that any assignment of rows reaches, tried one by one. Prices of rows' ways must be 0.
std::int64_t optimum(const DispatchCase& c) {
  const int ranks = c.layer.ranks, experts = c.layer.experts;
  std::int64_t best = std::numeric_limits<std::int64_t>::max();
  std::vector<std::int64_t> times(ranks, 0);
  const auto place = [&](auto&& self, int expert, int rank, std::int64_t left) -> void {
    if (*std::max_element(times.begin(), times.end()) >= best) return;
    if (rank == ranks) {
      if (left > 0) return;
      if (expert + 1 < experts) return self(self, expert + 1, 0, c.rows(expert + 1));
      best = *std::max_element(times.begin(), times.end());
      return;
    }
    for (std::int64_t rows = rank + 1 == ranks ? left : 0; rows <= left; ++rows) {
      const int owner = c.layer.only_holder[expert];
      const bool moved = rows > 0 && !c.has(rank, expert);
      const std::int64_t way = !moved                                                      ? 0
                               : c.layer.node_of_rank[rank] == c.layer.node_of_rank[owner] ? c.costs.weights_inside
                                                                                           : c.costs.weights_between;
      const std::int64_t own = rows == 0 ? 0 : c.costs.expert + rows * c.costs.row + way;
      times[rank] += own;
      times[owner] += way;
      self(self, expert, rank + 1, left - rows);
      times[rank] -= own;
      times[owner] -= way;
    }
  };
  place(place, 0, 0, c.rows(0));
  return best;
}

TEST(DispatchQuality, IsNearTheBestThereIs) {
  const std::uint64_t seed = 17;
  SplitMix random(seed);
  double sum = 0;
  int above = 0;
  constexpr int kRounds = 300;
  for (int round = 0; round < kRounds; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    const int ranks = 2 + random.below(2), experts = ranks == 2 ? 2 + 2 * random.below(2) : 3;
    DispatchCase c{layer_of(ranks, experts, 1 + random.below(ranks)),
                   {1000, random.below(500), 0, 0, random.below(4000), 0},
                   {},
                   {}};
    c.costs.weights_between = c.costs.weights_inside * 2;
    c.counts.assign(static_cast<std::size_t>(ranks) * experts, 0);
    const int heaviest = random.below(experts);
    for (int e = 0; e < experts; ++e) c.counts[e] = random.below(e == heaviest ? 24 : 10);
    const DispatchPlan plan = planned(c);
    const auto best = static_cast<double>(optimum(c));
    const double ratio = best == 0 ? 1 : static_cast<double>(plan.after) / best;
    sum += ratio;
    above += ratio > 1.05 ? 1 : 0;
    EXPECT_LE(ratio, 1.1) << plan.before << " -> " << plan.after << ", best " << best;
  }
  EXPECT_LE(sum / kRounds, 1.005);
  EXPECT_LE(above, kRounds / 50) << "where it would pay that a helper passes an expert of its own on";
}

/// `share` of the rows in `hot` experts, the rest in the others; the same from every rank.
DispatchCase paper_case(int ranks, int experts, int rows_a_rank, double share, int hot, const DispatchCosts& costs) {
  DispatchCase c{
      layer_of(ranks, experts, 8), costs, std::vector<std::int32_t>(static_cast<std::size_t>(ranks) * experts), {}};
  for (int r = 0; r < ranks; ++r) {
    for (int e = 0; e < experts; ++e) {
      const double rows = e < hot ? rows_a_rank * share / hot : rows_a_rank * (1 - share) / (experts - hot);
      c.counts[static_cast<std::size_t>(r) * experts + e] = static_cast<std::int32_t>(rows);
    }
  }
  return c;
}

// Picoseconds of one H200 in a node with NVLink, several nodes with 50 GB/s a rank, at DeepSeek-V3's shape.
constexpr DispatchCosts kCosts{150'000, 20'000'000, 70'000, 600'000, 200'000'000, 1'800'000'000};

void expect_no_worse_than_llep(const DispatchCase& c) {
  const DispatchPlan ours = planned(c), theirs = planned(c, llep_options());
  expect_valid(c, ours);
  EXPECT_LE(ours.after, theirs.after);
  EXPECT_TRUE(ours.after < theirs.after || ours.transfers.size() <= theirs.transfers.size());
}

TEST(DispatchQuality, IsNeverSlowerThanLlepOnItsOwnWorkloads) {
  for (const int ranks : {8, 16, 64}) {
    for (const int experts : {128, 256, 384}) {
      for (const int hot : {1, 4, 16}) {
        for (const double share : {0.05, 0.3, 0.5, 0.8, 0.95}) {
          for (const std::int64_t weights : {0, 1, 4}) {
            SCOPED_TRACE(std::to_string(ranks) + " ranks, " + std::to_string(experts) + " experts, " +
                         std::to_string(share) + " in " + std::to_string(hot));
            DispatchCosts costs = kCosts;
            costs.weights_inside *= weights;
            costs.weights_between *= weights;
            expect_no_worse_than_llep(paper_case(ranks, experts, 16'384 * 8, share, hot, costs));
          }
        }
      }
    }
  }
}

TEST(DispatchQuality, IsNeverSlowerThanLlepOnRealTraces) {
  for (const char* name : {"olmoe-1b-7b.decode", "granite-3.0-3b-a800m.decode"}) {
    const Trace trace =
        read_trace(std::filesystem::path(COTERIE_FIXTURES) / "traces" / (std::string(name) + ".safetensors"));
    const int layers = trace.layers(), ranks = 8;
    for (const std::int64_t batch : {256, 2048}) {
      for (int layer = 0; layer < layers; layer += 5) {
        DispatchCase c{layer_of(ranks, trace.num_experts, 4), kCosts, {}, {}};
        // 64 of each token: what a larger batch of the same kind of text asks for
        add_rows(c, trace, layer, 0, std::min(batch, trace.tokens()), 64);
        SCOPED_TRACE(std::string(name) + ", layer " + std::to_string(layer) + ", " + std::to_string(batch) + " tokens");
        expect_no_worse_than_llep(c);
      }
    }
  }
}

TEST(DispatchQuality, IsNeverSlowerThanLlepOnAnyLoad) {
  const std::uint64_t seed = 29;
  SplitMix random(seed);
  int faster = 0, as_fast = 0;
  for (int round = 0; round < 4000; ++round) {
    SCOPED_TRACE("seed " + std::to_string(seed) + ", round " + std::to_string(round));
    const DispatchCase c = any_case(random);
    DispatchOptions llep = llep_options(random.below(3) == 0 ? 1024 : 1 + random.below(50));
    llep.llep_alpha = 1 + 0.1 * std::max(0, random.below(8) - 4);
    llep.llep_threshold = random.below(2) == 0 ? 1.3 : 1;
    DispatchOptions ours = llep;
    ours.policy = DispatchPolicy::least_loaded;
    DispatchPlanner planner(c.costs, ours);
    const DispatchPlan plan = planner.plan(c.layer, c.counts, c.cached), theirs = planned(c, llep);
    EXPECT_LE(plan.after, theirs.after);
    if (plan.after == theirs.after) {
      EXPECT_LE(plan.transfers.size(), theirs.transfers.size());
    }
    EXPECT_LE(plan.after, plan.before);
    EXPECT_EQ(plan.stayed == DispatchPlan::Stayed::spilled, plan.after < plan.before);
    (plan.after < theirs.after ? faster : as_fast) += 1;
    const DispatchCase moved = reordered(c, random);
    const DispatchPlan& again = planner.plan(moved.layer, moved.counts, moved.cached);
    EXPECT_EQ(plan.after, again.after);
    EXPECT_EQ(plan.transfers.size(), again.transfers.size());
    if (round % 4 == 0) {
      expect_valid(c, plan);
      expect_valid(c, theirs);
      expect_valid(moved, again);
    }
    if (HasFailure()) return;
  }
  EXPECT_GT(faster, 2000);
  EXPECT_GT(as_fast, 200);
}

}  // namespace
}  // namespace coterie
