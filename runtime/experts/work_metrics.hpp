// What one rank counts and times while it works.
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"
#include "runtime/layers/phases.hpp"

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// A step in which the domain reads any prompt is prefill, the others are decode.
enum class StepKind : std::uint8_t { prefill, decode };
inline constexpr std::array<const char*, 2> kStepKindNames{"prefill", "decode"};

/// Steps of one kind on one rank. All rows but `tokens` are counted once a layer.
struct StepCounts {
  std::int64_t steps = 0;
  double seconds = 0;
  std::int64_t tokens = 0;  ///< rows that began the step here, those that began on all ranks of a domain at their home
  std::int64_t dense_rows = 0;    ///< through attention and router
  std::int64_t moved_rows = 0;    ///< of those, the ones that went on on another rank
  std::int64_t expert_rows = 0;   ///< through experts, one per (token, expert)
  std::int64_t rows_sent = 0;     ///< to experts on other ranks or to where they go on, once per destination
  std::int64_t sums_sent = 0;     ///< partial sums for rows on other ranks
  std::int64_t freight_sent = 0;  ///< K and V rows, once per destination
};

/// Least-loaded dispatch on one rank. Calls are of one layer for one micro-batch; figures are of planned calls.
struct SpillCounts {
  std::int64_t skipped = 0;       ///< calls without a plan: so few rows that none could pay
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

/// Of one rank.
struct WorkMetrics {
  StepKind kind = StepKind::decode;  ///< of the step under way
  std::array<StepCounts, 2> by_kind;
  std::int64_t prompt_rows = 0;  ///< prompt tokens that went through the model
  std::int64_t decode_rows = 0;  ///< generated tokens that went through the model
  std::int64_t generated = 0;    ///< tokens of the requests that are done
  PhaseSeconds phases;
  SpillCounts spill;
  std::vector<std::int64_t> expert_rows;  ///< (MoE layers): rows that this rank's experts computed, as above
  int domain = 0;                         ///< the rank's coherence domain
  std::int64_t kv_bytes = 0;              ///< memory of the KV cache
  std::int64_t kv_peak_bytes = 0;         ///< the most of it that was in use

  [[nodiscard]] StepCounts& of(StepKind k) { return by_kind[static_cast<std::size_t>(k)]; }
  [[nodiscard]] const StepCounts& of(StepKind k) const { return by_kind[static_cast<std::size_t>(k)]; }
  [[nodiscard]] StepCounts& now() { return of(kind); }
  [[nodiscard]] std::int64_t steps() const { return by_kind[0].steps + by_kind[1].steps; }
  [[nodiscard]] const char* kind_name() const { return kStepKindNames[static_cast<std::size_t>(kind)]; }
};

}  // namespace coterie
