// A tensor of a checkpoint as numbers, whatever it is stored as.
#pragma once

#include "placement/safetensors.hpp"
#include "runtime/quantization.hpp"
#include "runtime/weight_ref.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// One array of a file of the checkpoint.
struct StoredArray {
  const SafetensorsFile* file = nullptr;
  const TensorView* tensor = nullptr;
};

/// F32, F16, BF16; F8_E4M3 with scales for blocks of a matrix; MXFP4. Its files outlive it.
class StoredTensor {
 public:
  /// F32, F16 or BF16.
  explicit StoredTensor(const StoredArray& numbers);
  /// F8_E4M3: matrices (rows, cols) with a scale for each block of `block_rows` x `block_cols`, the last ones smaller.
  StoredTensor(const StoredArray& numbers, const StoredArray& scales, std::int64_t block_rows, std::int64_t block_cols);
  /// MXFP4: `blocks` (..., groups, 16) of two numbers a byte, the first in the lower half; `scales` (..., groups).
  [[nodiscard]] static StoredTensor mxfp4(const StoredArray& blocks, const StoredArray& scales);

  /// Whether every number is a bf16's.
  [[nodiscard]] bool fits_bf16() const noexcept { return fits_bf16_; }
  /// Rows [first, first + count) of `ref` as f32, dense.
  void read(const WeightRef& ref, std::int64_t first, std::int64_t count, float* out) const;
  /// The same as bf16, where they fit.
  void read(const WeightRef& ref, std::int64_t first, std::int64_t count, std::uint16_t* out) const;

 private:
  enum class Encoding { plain, fp8, mxfp4 };

  template <class T>
  void rows(const WeightRef& ref, std::int64_t first, std::int64_t count, T* out) const;
  /// Numbers [first, first + count) of the tensor. `once`: nothing near them is read again soon.
  template <class T>
  void numbers(std::int64_t first, std::int64_t count, bool once, T* out) const;
  template <class T>
  void fp8_numbers(std::int64_t first, std::span<const std::byte> bytes, T* out) const;
  template <class T>
  void mxfp4_numbers(std::int64_t first, std::int64_t count, std::span<const std::byte> bytes, T* out) const;

  Encoding encoding_ = Encoding::plain;
  StoredArray array_;
  StoredArray scale_array_;
  bool fits_bf16_ = false;
  std::int64_t rows_ = 0;  ///< fp8: of a matrix
  std::int64_t cols_ = 0;
  std::int64_t block_rows_ = 0;
  std::int64_t block_cols_ = 0;
  std::vector<float> scales_;  ///< fp8: (matrices, blocks of rows, blocks of columns)
};

/// Values as f32: F32, F16, BF16, F8_E4M3, F8_E8M0.
void expand(ElementType type, std::span<const std::byte> bytes, float* out);

}  // namespace coterie
