#include "runtime/checkpoint/weight_ref.hpp"

#include <utility>

namespace coterie {

WeightRef WeightRef::row_range(std::int64_t first, std::int64_t count, std::int64_t step) const {
  WeightRef out = *this;
  out.offset += first * row_stride;
  out.rows = count;
  out.row_stride *= step;
  return out;
}

WeightRef WeightRef::transposed() const {
  WeightRef out = *this;
  std::swap(out.rows, out.cols);
  std::swap(out.row_stride, out.col_stride);
  return out;
}

WeightRef whole(std::string tensor, Shape shape) {
  const std::int64_t cols = shape.back();
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return {std::move(tensor), std::move(shape), rows, cols, 0, cols, 1};
}

WeightRef one_of(std::string tensor, Shape shape, std::int64_t index) {
  const std::int64_t width = shape.back();
  if (shape.size() == 2) return {std::move(tensor), std::move(shape), width, 1, index * width, 1, 1};
  const std::int64_t rows = shape[1];
  return {std::move(tensor), std::move(shape), rows, width, index * rows * width, width, 1};
}

WeightRef column(std::string tensor, std::int64_t count) {
  return {std::move(tensor), {count}, count, 1, 0, 1, 1};
}

}  // namespace coterie
