// Where a weight lies in the checkpoint: a matrix inside a stored tensor of any shape.
#pragma once

#include "placement/files/safetensors.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace coterie {

/// The matrix whose element (r, c) is number `offset + r * row_stride + c * col_stride` of a stored tensor, row-major.
struct WeightRef {
  std::string tensor;
  Shape stored;  ///< the shape it must have in the checkpoint
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t offset = 0;
  std::int64_t row_stride = 0;
  std::int64_t col_stride = 1;

  /// Rows first, first + step, ...: `count` of them.
  [[nodiscard]] WeightRef row_range(std::int64_t first, std::int64_t count, std::int64_t step = 1) const;
  [[nodiscard]] WeightRef transposed() const;
  [[nodiscard]] std::int64_t elements() const { return rows * cols; }
};

/// A whole stored matrix; a vector is one row.
[[nodiscard]] WeightRef whole(std::string tensor, Shape shape);
/// Matrix `index` of a stack (count, rows, cols), or vector `index` of a stack (count, width) as one column.
[[nodiscard]] WeightRef one_of(std::string tensor, Shape shape, std::int64_t index);
/// A stored vector as one column, as biases are taken: stacked, they lie one after the other.
[[nodiscard]] WeightRef column(std::string tensor, std::int64_t count);

/// Matrices of as many columns, one below the other.
using StackedRef = std::vector<WeightRef>;

}  // namespace coterie
