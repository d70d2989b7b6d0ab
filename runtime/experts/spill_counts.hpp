// What a rank counts of least-loaded dispatch.
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"

#include <cstdint>
#include <span>

namespace coterie {

/// Calls are of one layer for one micro-batch; figures other than calls are of planned ones.
struct SpillCounts {
  std::int64_t skipped = 0;       ///< calls without a plan: so few rows that none could pay
  std::int64_t paused = 0;        ///< the same: the layer's last plans gained nothing
  std::int64_t balanced = 0;      ///< planned, and nothing was spilled: the loads were even enough
  std::int64_t not_worth_it = 0;  ///< the same: no spill was predicted to pay
  std::int64_t spilled = 0;
  std::int64_t rows_before = 0;                          ///< of this rank, by the placement
  std::int64_t rows_after = 0;                           ///< by the plans
  std::int64_t heaviest_before = 0, heaviest_after = 0;  ///< of the rank with most rows, call by call
  std::int64_t experts_sent = 0, experts_taken = 0, weight_bytes_sent = 0;
  std::int64_t cache_hits = 0;                       ///< experts that a call found in this rank's cache
  double predicted_before = 0, predicted_after = 0;  ///< seconds of the slowest rank
  double measured = 0;                               ///< seconds from a plan to the end of this rank's experts

  void add(const DispatchPlan& plan, const DispatchLayer& layer, std::span<const std::int32_t> counts, int rank);
};

}  // namespace coterie
