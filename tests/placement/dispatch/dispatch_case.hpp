// Rows to dispatch, for tests of plans: by hand, at random or from a trace, and what every plan must hold.
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"
#include "placement/splitmix.hpp"
#include "placement/trace/trace.hpp"

#include <cstdint>
#include <vector>

namespace coterie {

struct DispatchCase {
  DispatchLayer layer;
  DispatchCosts costs;
  std::vector<std::int32_t> counts;  ///< (ranks, experts)
  std::vector<std::uint8_t> cached;  ///< (experts, ranks)

  [[nodiscard]] std::int64_t count(int rank, int expert) const {
    return counts[static_cast<std::size_t>(rank) * layer.experts + expert];
  }
  [[nodiscard]] std::int64_t rows(int expert) const {
    std::int64_t sum = 0;
    for (int r = 0; r < layer.ranks; ++r) sum += count(r, expert);
    return sum;
  }
  [[nodiscard]] bool held(int rank, int expert) const {
    return layer.held[static_cast<std::size_t>(expert) * layer.ranks + rank] != 0;
  }
  [[nodiscard]] bool has(int rank, int expert) const {
    return held(rank, expert) ||
           (!cached.empty() && cached[static_cast<std::size_t>(expert) * layer.ranks + rank] != 0);
  }
};

/// Experts dealt in order, `ranks_per_node` ranks a node; `replicas` of the experts are held twice, and odd ranks turn
/// to the second.
[[nodiscard]] DispatchLayer layer_of(int ranks, int experts, int ranks_per_node, int replicas = 0);

/// What is drawn: one of so many counts is 0, one of so many experts cached on a rank, in one of so many cases.
struct RandomCounts {
  int least;   ///< of the largest count of an expert that isn't hot
  int hotter;  ///< a hot one has up to so many times that
  int empty;
  int cached;
};

/// Prices, counts and caches without measure: what no machine has.
void fill_at_random(DispatchCase& c, SplitMix& random, const RandomCounts& of);

/// Any load: 2 to 64 ranks in nodes of any sizes, be they numbered in turn or not; experts that several ranks hold;
/// caches; prices of real machines, none, and beyond measure; hot experts, nothing anywhere, all ranks overloaded but
/// one.
[[nodiscard]] DispatchCase any_case(SplitMix& random);

/// The same with the ranks inside the nodes in another order.
[[nodiscard]] DispatchCase reordered(const DispatchCase& c, SplitMix& random);

/// Adds `repeat` rows for each choice of one layer's tokens from `begin` to `end`, dealt to the ranks one by one.
void add_rows(DispatchCase& c, const Trace& trace, int layer, std::int64_t begin, std::int64_t end, int repeat);

[[nodiscard]] DispatchPlan planned(const DispatchCase& c, const DispatchOptions& options = {});

[[nodiscard]] DispatchOptions llep_options(std::int64_t min_rows = 1024);

/// Every row is computed once where its weights are, nothing is sent in vain, and the predicted time is that of the
/// slowest rank.
void expect_valid(const DispatchCase& c, const DispatchPlan& plan);

}  // namespace coterie
