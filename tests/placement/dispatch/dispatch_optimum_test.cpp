// Dispatch plans against the optimum of a small exact program.
#include "placement/dispatch/plan_dispatch.hpp"
#include "placement/machine.hpp"
#include "placement/splitmix.hpp"
#include "placement/trace/trace.hpp"
#include "tests/placement/dispatch/small_exact_program.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

namespace coterie {
namespace {

struct Case {
  DispatchLayer layer;
  DispatchCosts costs;
  std::vector<std::int32_t> counts;  ///< (ranks, experts)
  std::vector<std::uint8_t> cached;  ///< (experts, ranks)
};

/// Experts dealt in order; `replicas` of them are held twice.
DispatchLayer layer_of(int ranks, int experts, int ranks_per_node, int replicas = 0) {
  std::vector<int> nodes(ranks), destinations(static_cast<std::size_t>(ranks) * experts);
  std::vector<std::uint8_t> held(destinations.size(), 0);
  for (int r = 0; r < ranks; ++r) nodes[r] = r / ranks_per_node;
  for (int e = 0; e < experts; ++e) {
    const int owner = static_cast<int>(std::int64_t{e} * ranks / experts), second = (owner + (e < replicas)) % ranks;
    held[static_cast<std::size_t>(e) * ranks + owner] = held[static_cast<std::size_t>(e) * ranks + second] = 1;
    for (int r = 0; r < ranks; ++r)
      destinations[static_cast<std::size_t>(r) * experts + e] = r == second ? second : owner;
  }
  return {nodes, destinations, held};
}

DispatchPlan planned(const Case& c, DispatchPolicy policy = DispatchPolicy::least_loaded) {
  DispatchOptions options;
  options.policy = policy;
  DispatchPlanner planner(c.costs, options);
  return planner.plan(c.layer, c.counts, c.cached);
}

/// A twentieth faster than planned can't be reached.
bool within_five_percent(const Case& c) {
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
Case paper_case(const Shape& shape, int ranks, double share, int hot, const DispatchCosts& costs, SplitMix& random) {
  const int experts = shape.experts / 8;
  Case c{layer_of(ranks, experts, 1 + random.below(ranks)), costs, {}, {}};
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
          const Case c = paper_case(shape, ranks, share, hot, costs_of(shape, on_gpu), random);
          EXPECT_TRUE(within_five_percent(c));
          EXPECT_LE(planned(c).after, planned(c, DispatchPolicy::llep).after);
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
      Case c{layer_of(ranks, trace.num_experts, 1 + random.below(ranks)), costs_of(kShapes[1], on_gpu), {}, {}};
      c.counts.assign(static_cast<std::size_t>(ranks) * trace.num_experts, 0);
      for (int t = begin; t < begin + batch; ++t) {
        for (int k = 0; k < trace.top_k; ++k) {
          const std::uint16_t e = trace.experts[(static_cast<std::size_t>(t) * layers + layer) * trace.top_k + k];
          if (e != Trace::kNoExpert) c.counts[static_cast<std::size_t>(t % ranks) * trace.num_experts + e] += repeat;
        }
      }
      EXPECT_TRUE(within_five_percent(c));
      EXPECT_LE(planned(c).after, planned(c, DispatchPolicy::llep).after);
    }
  }
}

/// Prices, replicas, caches and counts without measure: what no machine has.
Case wild_case(SplitMix& random) {
  const int ranks = 2 + random.below(3), experts = ranks * (1 + random.below(3));
  Case c{
      layer_of(ranks, experts, 1 + random.below(ranks), random.below(4) == 0 ? random.below(experts) : 0), {}, {}, {}};
  const auto price = [&](int most) { return random.below(4) == 0 ? 0 : random.below(most); };
  c.costs = {1 + random.below(200), price(3000), price(100), 0, price(100'000), 0};
  c.costs.row_between = c.costs.row_inside * (1 + random.below(8));
  c.costs.weights_between = c.costs.weights_inside * (1 + random.below(8));
  c.counts.resize(static_cast<std::size_t>(ranks) * experts);
  const int scale = 50 + random.below(500), hot = random.below(experts), hotter = 1 + random.below(30);
  for (std::size_t i = 0; i < c.counts.size(); ++i) {
    const bool is_hot = static_cast<int>(i) % experts == hot || random.below(20) == 0;
    c.counts[i] = random.below(5) == 0 ? 0 : random.below(scale) * (is_hot ? hotter : 1);
  }
  if (random.below(4) == 0) {
    c.cached.resize(c.counts.size());
    for (std::uint8_t& cached : c.cached) cached = random.below(5) == 0 ? 1 : 0;
  }
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
