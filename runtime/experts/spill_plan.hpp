// A dispatch plan as one rank carries it out: who computes each of its rows' choices, and which weights it gives and
// gets. Pure: no communication, no arithmetic on rows. What the forward pass of a model and a layer that is trained
// have in common.
//
// One layer, on each rank:
//   1. route; counts = all ranks' count_choices, gathered: (ranks, experts)
//   2. plan = DispatchPlanner::plan(layer, counts, cached), the same on every rank
//   3. rank_of_choice = ranks_of_choices(plan, counts, self, choices)
//   4. each row goes once to each rank among its choices' ranks, with the choices that are computed there
//   5. transfers_of(plan, self): its `gives` go with the rows, its `gets` come with them
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// (experts): how many of the choices are of each expert; negative ones are of none. Throws std::invalid_argument when
/// one is not among [0, experts).
[[nodiscard]] std::vector<std::int32_t> count_choices(std::span<const std::int32_t> choices, int experts);

/// (choices): the rank that computes each of them, -1 for those of no expert. `choices` are those of `source`'s rows in
/// one order for all ranks, row by row; `counts` is (ranks, experts), of which source's part is
/// count_choices(choices). Throws std::invalid_argument when the plan leaves one out.
[[nodiscard]] std::vector<int> ranks_of_choices(const DispatchPlan& plan, std::span<const std::int32_t> counts,
                                                int experts, int source, std::span<const std::int32_t> choices);

/// The plan's transfers that concern one rank, as they lie in messages: both by rank and then by expert.
struct WeightTransfers {
  std::vector<DispatchTransfer> gives;  ///< from this rank, by `to`
  std::vector<DispatchTransfer> gets;   ///< to this rank, by `from`

  [[nodiscard]] std::span<const DispatchTransfer> gives_to(int rank) const;
};
[[nodiscard]] WeightTransfers transfers_of(const DispatchPlan& plan, int rank);

/// (ranks): rows, one per (token, expert), that each rank computes by the plan.
[[nodiscard]] std::vector<std::int64_t> rows_after(const DispatchPlan& plan, int ranks);
/// The same where rows go where the placement says.
[[nodiscard]] std::vector<std::int64_t> rows_before(const DispatchLayer& layer, std::span<const std::int32_t> counts);

}  // namespace coterie
