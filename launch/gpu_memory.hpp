// What a rank of `coterie generate` may take of a GPU, and what its weights and steps take of that.
#pragma once

#include "launch/job_form.hpp"
#include "placement/input_error.hpp"
#include "runtime/cost/step_memory.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace coterie {

struct GpuMemory {
  std::int64_t there = 0;    ///< bytes for this rank
  std::int64_t weights = 0;  ///< bytes of this rank's weights, about
  StepMemory step;

  /// Bytes for keys and values; below 0 where the rest alone doesn't fit.
  [[nodiscard]] std::int64_t left() const { return there - weights - step.own; }
};

/// Of this rank, in coherence domains of so many ranks; nothing where the device's memory is the host's.
[[nodiscard]] std::optional<GpuMemory> gpu_memory(const GenerateOptions& options, const JobFacts& facts,
                                                  const Device& device, int rank, std::int64_t together);

/// "a rank has 100 bytes of its GPU, of which ..."
[[nodiscard]] std::string to_string(const GpuMemory& memory);
/// That not even a block of keys and values of so many bytes is left.
[[nodiscard]] InputError does_not_fit(const GpuMemory& memory, std::int64_t block_bytes);

}  // namespace coterie
