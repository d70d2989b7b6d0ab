// What one rank counts and times while it works.
#pragma once

#include "runtime/experts/spill_counts.hpp"
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
