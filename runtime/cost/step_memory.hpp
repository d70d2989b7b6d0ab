// The memory that steps of a model work in, by its shape and the largest batch.
#pragma once

#include "kernels/tensor.hpp"
#include "runtime/checkpoint/model_spec.hpp"

#include <cstdint>

namespace coterie {

/// The most of one rank in a step.
struct StepRows {
  std::int64_t rows = 0;     ///< through its attention
  std::int64_t pairs = 0;    ///< (row, expert) through its experts; where they are more, a device takes more memory
  std::int64_t sampled = 0;  ///< whose logits are wanted
};

/// Bytes, somewhat more than such a step takes: of a device's memory, and of what it shares with the host.
struct StepMemory {
  std::int64_t own = 0;
  std::int64_t shared = 0;
};

[[nodiscard]] StepMemory step_memory(const ModelSpec& spec, const StepRows& most, DType activations);

}  // namespace coterie
