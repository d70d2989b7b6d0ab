// Dispatch plans against the optimum of a small exact program.
#include "placement/machine.hpp"
#include "placement/splitmix.hpp"
#include "placement/trace/trace.hpp"
#include "tests/placement/dispatch/dispatch_case.hpp"
#include "tests/placement/dispatch/small_exact_program.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace coterie {
namespace {

/// A twentieth faster than planned can't be reached.
bool within_five_percent(const DispatchCase& c) {
  const DispatchPlan plan = planned(c);
  return plan.after == 0 || !can_reach(c.layer, c.costs, c.counts, c.cached, static_cast<double>(plan.after) / 1.05);
}

// One H200 in a node with NVLink, 50 GB/s a rank between nodes; and a rank of a few cores, with Ethernet between hosts.
Machine gpu() {
  Machine machine;
  machine.inside_node = {5e-6, 4e11};
  machine.between_nodes = Link{1e-5, 5e10};
  machine.gemm = {{16, 1.5e13}, {16'384, 6e14}};
  return machine;
}
Machine cpu() {
  Machine machine;
  machine.inside_node = {2e-6, 5e9};
  machine.between_nodes = Link{2e-5, 1.2e9};
  machine.gemm = {{1, 8e9}, {16, 5e10}, {1024, 1e11}};
  return machine;
}

struct Shape {
  const char* name;
  int experts, hidden, intermediate, rows;  ///< rows: of a rank, with the experts of a token
};
// The models of LLEP's tables (arXiv 2601.17111).
constexpr Shape kShapes[] = {{"gpt-oss-120b", 128, 2880, 2880, 131'072},
                             {"deepseek-v3", 256, 7168, 2048, 131'072},
                             {"kimi-k2", 384, 7168, 2048, 131'072}};

DispatchCosts costs_of(const Shape& shape, bool on_gpu) {
  const std::int64_t bytes = on_gpu ? 2 : 4, h = shape.hidden;
  return dispatch_costs(on_gpu ? gpu() : cpu(), h, shape.intermediate, bytes * 3 * h * shape.intermediate,
                        bytes * 2 * h);
}

/// `share` of the rows in `hot` experts, the rest in the others, each count off by up to 30 % at random. An eighth of
/// the experts.
DispatchCase paper_case(const Shape& shape, int ranks, double share, int hot, const DispatchCosts& costs,
                        SplitMix& random) {
  const int experts = shape.experts / 8;
  DispatchCase c{layer_of(ranks, experts, 1 + random.below(ranks)), costs, {}, {}};
  for (int r = 0; r < ranks; ++r) {
    for (int e = 0; e < experts; ++e) {
      const double weight = e < hot ? share / hot : (1 - share) / (experts - hot);
      const double noise = 0.7 + 0.6 * static_cast<double>(random.unit());
      c.counts.push_back(static_cast<std::int32_t>(shape.rows * weight * noise));
    }
  }
  return c;
}

TEST(DispatchOptimum, IsNearOnThePapersWorkloads) {
  SplitMix random(31);
  for (const Shape& shape : kShapes) {
    for (const int hot : {1, 4, 16}) {
      for (const double share : {0.3, 0.5, 0.8, 0.95}) {
        for (const bool on_gpu : {false, true}) {
          if (hot >= shape.experts / 8) continue;
          const int ranks = 2 + random.below(3);
          SCOPED_TRACE(std::string(shape.name) + ", " + std::to_string(share) + " in " + std::to_string(hot) + ", " +
                       std::to_string(ranks) + (on_gpu ? " GPUs" : " ranks"));
          const DispatchCase c = paper_case(shape, ranks, share, hot, costs_of(shape, on_gpu), random);
          EXPECT_TRUE(within_five_percent(c));
          EXPECT_LE(planned(c).after, planned(c, llep_options()).after);
        }
      }
    }
  }
}

TEST(DispatchOptimum, IsNearOnRealTraces) {
  for (const char* name : {"olmoe-1b-7b.decode", "granite-3.0-3b-a800m.decode"}) {
    const Trace trace =
        read_trace(std::filesystem::path(COTERIE_FIXTURES) / "traces" / (std::string(name) + ".safetensors"));
    const int layers = trace.layers();
    SplitMix random(37);
    for (int round = 0; round < 30; ++round) {
      const bool on_gpu = round % 2 == 0;
      const int ranks = 2 + 2 * random.below(2), layer = random.below(layers), batch = 64 << random.below(4);
      const int begin = random.below(static_cast<int>(trace.tokens()) - batch), repeat = on_gpu ? 64 : 1;
      SCOPED_TRACE(std::string(name) + ", " + std::to_string(ranks) + " ranks, layer " + std::to_string(layer) + ", " +
                   std::to_string(batch) + " tokens from " + std::to_string(begin));
      DispatchCase c{layer_of(ranks, trace.num_experts, 1 + random.below(ranks)), costs_of(kShapes[1], on_gpu), {}, {}};
      add_rows(c, trace, layer, begin, begin + batch, repeat);
      EXPECT_TRUE(within_five_percent(c));
      EXPECT_LE(planned(c).after, planned(c, llep_options()).after);
    }
  }
}

DispatchCase wild_case(SplitMix& random) {
  const int ranks = 2 + random.below(3), experts = ranks * (1 + random.below(3));
  DispatchCase c{
      layer_of(ranks, experts, 1 + random.below(ranks), random.below(4) == 0 ? random.below(experts) : 0), {}, {}, {}};
  fill_at_random(c, random, {.least = 50, .hotter = 30, .empty = 5, .cached = 4});
  return c;
}

TEST(DispatchOptimum, IsMostlyNearAtAnyPrices) {
  const std::uint64_t seed = 41;
  SplitMix random(seed);
  constexpr int kRounds = 300;
  int near = 0;
  for (int round = 0; round < kRounds; ++round) near += within_five_percent(wild_case(random)) ? 1 : 0;
  EXPECT_GE(near, kRounds * 94 / 100) << "seed " << seed;
}

}  // namespace
}  // namespace coterie
