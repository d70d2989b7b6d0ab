// Views of arrays in a device's memory, and the owner of such memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

namespace coterie {

enum class DType { f32, bf16 };

[[nodiscard]] constexpr std::size_t size_of(DType type) noexcept {
  return type == DType::f32 ? 4 : 2;
}

/// A matrix of activations in device memory, row-major; rows may be further apart than they are wide. A view: it owns
/// nothing and is copied freely.
struct Tensor {
  std::byte* data = nullptr;
  DType type = DType::f32;
  std::int64_t rows = 0;
  std::int64_t cols = 0;
  std::int64_t stride = 0;  ///< elements from one row to the next

  [[nodiscard]] std::byte* row(std::int64_t r) const noexcept {
    return data + static_cast<std::size_t>(r * stride) * size_of(type);
  }
  [[nodiscard]] Tensor row_range(std::int64_t first, std::int64_t count) const noexcept {
    return {row(first), type, count, cols, stride};
  }
  [[nodiscard]] Tensor col_range(std::int64_t first, std::int64_t count) const noexcept {
    return {data + static_cast<std::size_t>(first) * size_of(type), type, rows, count, stride};
  }
};

/// Memory of a device; freed with the last owner gone. The deleter knows its device, which must outlive it.
using DeviceMemory = std::unique_ptr<std::byte[], std::function<void(std::byte*)>>;

/// A tensor and its memory; empty where a model has no such array.
struct DeviceArray {
  DeviceMemory memory;
  Tensor view;

  [[nodiscard]] explicit operator bool() const noexcept { return view.data != nullptr; }
};

}  // namespace coterie
