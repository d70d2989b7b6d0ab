// What a job counts and times, and its JSON.
#pragma once

#include "comm/counting_communicator.hpp"
#include "runtime/phases.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <vector>

namespace coterie {

/// Of one rank, sequences by their home. A step in which the domain reads any prompt counts as prefill, the others as
/// decode.
struct WorkMetrics {
  std::int64_t steps = 0;
  std::int64_t prompt_rows = 0;       ///< prompt tokens that went through the model
  std::int64_t decode_rows = 0;       ///< generated tokens that went through the model
  std::int64_t pure_decode_rows = 0;  ///< those in decode steps
  double prefill_seconds = 0;
  double decode_seconds = 0;
  std::int64_t generated = 0;  ///< tokens of the requests that are done
  PhaseSeconds phases;
  std::int64_t dense_rows = 0;  ///< rows through attention and router on this rank, summed over the layers
  std::int64_t moved_rows = 0;  ///< of those, the ones that went on on another rank
  std::vector<std::int64_t>
      expert_rows;                 ///< (MoE layers): rows that this rank's experts computed, one per (token, expert)
  std::int64_t kv_bytes = 0;       ///< memory of the KV cache
  std::int64_t kv_peak_bytes = 0;  ///< the most of it that was in use
};

/// Bytes of memory that this process held at most.
[[nodiscard]] std::int64_t peak_memory();

/// The job's metrics, put together from all ranks; meaningful on rank 0, null elsewhere. Collective. `counted` counts
/// the layers' communicator; `comm` carries this call's own message and may be the same or what it wraps.
[[nodiscard]] nlohmann::json gather_metrics(Communicator& comm, const CountingCommunicator& counted,
                                            const WorkMetrics& mine);

}  // namespace coterie
