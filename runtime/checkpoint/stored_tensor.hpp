// A tensor of a checkpoint as numbers, whatever it is stored as.
#pragma once

#include "placement/files/safetensors.hpp"
#include "runtime/checkpoint/quantization.hpp"
#include "runtime/checkpoint/weight_ref.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// One array of a file of the checkpoint.
struct StoredArray {
  const SafetensorsFile* file = nullptr;
  const TensorView* tensor = nullptr;
};

enum class Encoding {
  plain,  ///< F32, F16 or BF16
  fp8,    ///< F8_E4M3: matrices (rows, cols) with a scale for each block of them, the last blocks smaller
  mxfp4   ///< (..., groups, 16) of two numbers a byte, the first in the lower half, with scales (..., groups)
};

/// Where a tensor's numbers are, of types and shapes that fit.
struct StoredArrays {
  Encoding encoding = Encoding::plain;
  StoredArray numbers;
  StoredArray scales{};
  std::int64_t block_rows = 0;  ///< fp8
  std::int64_t block_cols = 0;
};

/// Its files outlive it.
class StoredTensor {
 public:
  explicit StoredTensor(const StoredArrays& arrays);

  /// Whether every number is a bf16's.
  [[nodiscard]] bool fits_bf16() const noexcept { return fits_bf16_; }
  /// Rows [first, first + count) of `ref` as f32, dense.
  void read(const WeightRef& ref, std::int64_t first, std::int64_t count, float* out) const;
  /// The same as bf16, where they fit.
  void read(const WeightRef& ref, std::int64_t first, std::int64_t count, std::uint16_t* out) const;

 private:
  template <class T>
  void rows(const WeightRef& ref, std::int64_t first, std::int64_t count, T* out) const;
  /// Numbers [first, first + count) of the tensor. `once`: nothing near them is read again soon.
  template <class T>
  void numbers(std::int64_t first, std::int64_t count, bool once, T* out) const;
  template <class T>
  void fp8_numbers(std::int64_t first, std::span<const std::byte> bytes, T* out) const;
  template <class T>
  void mxfp4_numbers(std::int64_t first, std::int64_t count, std::span<const std::byte> bytes, T* out) const;

  StoredArrays arrays_;
  bool fits_bf16_ = false;
  std::vector<float> scales_;  ///< fp8: (matrices, blocks down, blocks across)
};

/// Values as f32: F32, F16, BF16, F8_E4M3, F8_E8M0.
void expand(ElementType type, std::span<const std::byte> bytes, float* out);

}  // namespace coterie
