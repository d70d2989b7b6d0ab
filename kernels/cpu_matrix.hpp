// A weight matrix as the CPU multiplies with it.
#pragma once

#include "kernels/device.hpp"

#include <cstdint>
#include <new>
#include <vector>

namespace coterie {

/// Memory on cache line boundaries, uninitialised.
[[nodiscard]] DeviceMemory allocate_aligned(std::size_t bytes);

/// Panels of `width` outputs each, one after the other: (panels, in_features, width) as f32, or as bf16 with two
/// neighbouring inputs side by side: (panels, in_features / 2, width, 2). Outputs and inputs past the end are zero.
/// f32 whose numbers all fit bf16 are kept as their upper halves, in f32's order: half the memory to read, the same
/// bits.
class CpuMatrix final : public PackedMatrix {
 public:
  /// Reads the source panel by panel.
  CpuMatrix(const WeightSource& source, DType type);
  /// A view of what another one packed. Throws std::invalid_argument when the bytes don't fit the form.
  CpuMatrix(const PackedForm& form, std::span<const std::byte> bytes);
  /// A matrix of f32 in `memory`, which is somebody else's, holds memory_bytes() and is filled by the caller.
  CpuMatrix(std::int64_t out_features, std::int64_t in_features, bool halves, std::byte* memory);
  [[nodiscard]] static std::size_t memory_bytes(std::int64_t out_features, std::int64_t in_features, bool halves);

  [[nodiscard]] std::int64_t out_features() const noexcept override { return out_features_; }
  [[nodiscard]] std::int64_t in_features() const noexcept override { return in_features_; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept override { return {data_, size_}; }
  [[nodiscard]] PackedForm form() const noexcept override;

  [[nodiscard]] DType type() const noexcept { return type_; }
  /// f32 kept as upper halves.
  [[nodiscard]] bool halves() const noexcept { return halves_; }
  [[nodiscard]] std::int64_t width() const noexcept { return width_; }
  [[nodiscard]] std::int64_t panels() const noexcept { return panels_; }
  /// in_features with the padding.
  [[nodiscard]] std::int64_t depth() const noexcept { return depth_; }
  [[nodiscard]] const std::byte* panel(std::int64_t index) const noexcept {
    return data_ + static_cast<std::size_t>(index * width_ * depth_) * number_bytes();
  }

  [[nodiscard]] std::size_t number_bytes() const noexcept { return halves_ ? 2 : size_of(type_); }

 private:
  /// Without memory.
  CpuMatrix(std::int64_t out_features, std::int64_t in_features, DType type, bool halves);

  std::int64_t out_features_;
  std::int64_t in_features_;
  DType type_;
  bool halves_;
  std::int64_t width_;
  std::int64_t panels_;
  std::int64_t depth_;
  std::size_t size_;
  DeviceMemory memory_;  ///< none of a view
  const std::byte* data_;
};

/// Throws std::invalid_argument if `matrix` was packed by another kind of device.
[[nodiscard]] const CpuMatrix& as_cpu_matrix(const PackedMatrix& matrix);

}  // namespace coterie
