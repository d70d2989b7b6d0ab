// What Hopper's copies must know of a matrix of rows.
#pragma once

#include "kernels/tensor.hpp"

#include <cuda.h>

namespace coterie {

/// Maps for copies of boxes, so many rows x `slab_step` columns, swizzled as slabs are; a kernel's parameter.
struct RowMaps {
  /// `rows`: bf16, each on 16 bytes; it need not be filled yet. Throws std::runtime_error where the driver refuses.
  RowMaps(const Tensor& rows, int many_rows, int few_rows);
  bool operator==(const RowMaps& other) const;

  CUtensorMap many;  ///< boxes of `many_rows`
  CUtensorMap few;   ///< of `few_rows`
};

}  // namespace coterie
