// Products of a few or many rows with a packed weight, on one thread.
#pragma once

#include "kernels/cpu_matrix.hpp"

#include <cstdint>

namespace coterie {

/// out (rows, panels' outputs) = in (rows, in_features) * those panels of weight^T, or out += with accumulate.
struct GemmTask {
  const CpuMatrix* weight = nullptr;
  std::int64_t first_panel = 0;
  std::int64_t panels = 0;
  std::int64_t rows = 0;
  const std::byte* in = nullptr;  ///< f32, or bf16 with rows padded by zeros to weight.depth(), as the weight is
  std::int64_t in_stride = 0;
  float* out = nullptr;  ///< at output 0 of the weight, not of first_panel
  std::int64_t out_stride = 0;
  bool accumulate = false;
};

/// Every number is a sum of sums over pieces of the inputs, all in their order, so that neither the rows beside it nor
/// the task's panels change a bit.
void multiply(const GemmTask& task);

}  // namespace coterie
