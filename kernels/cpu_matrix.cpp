#include "kernels/cpu_matrix.hpp"

#include "kernels/cpu_simd.hpp"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

namespace coterie {
namespace {

constexpr std::size_t cache_line = 64;
constexpr std::int64_t floats_at_a_time = std::int64_t{4} << 20;  // of the source, 16 MiB

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// The widest panel that pads no more than the narrowest would.
std::int64_t panel_width(std::int64_t out_features) {
  const std::int64_t padded = round_up(out_features, 16);
  return padded % 64 == 0 ? 64 : padded % 32 == 0 ? 32 : 16;
}

/// Row r of (rows, cols) to column r of a panel.
void place(std::span<const float> row, std::int64_t column, std::int64_t width, float* panel) {
  for (std::size_t k = 0; k < row.size(); ++k) panel[k * width + column] = row[k];
}
void place(std::span<const float> row, std::int64_t column, std::int64_t width, std::uint16_t* panel) {
  for (std::size_t k = 0; k < row.size(); ++k) panel[(k / 2 * width + column) * 2 + k % 2] = to_bf16(row[k]);
}

void place_halves(std::span<const float> row, std::int64_t column, std::int64_t width, std::uint16_t* panel) {
  for (std::size_t k = 0; k < row.size(); ++k) {
    panel[k * width + column] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(row[k]) >> 16);
  }
}

}  // namespace

DeviceMemory allocate_aligned(std::size_t bytes) {
  constexpr std::align_val_t alignment{cache_line};
  auto* memory = static_cast<std::byte*>(::operator new[](std::max<std::size_t>(bytes, 1), alignment));
  return {memory, [](std::byte* p) { ::operator delete[](p, std::align_val_t{cache_line}); }};
}

CpuMatrix::CpuMatrix(const WeightSource& source, DType type)
    : out_features_(source.rows),
      in_features_(source.cols),
      type_(type),
      halves_(type == DType::f32 && source.fits_bf16),
      width_(panel_width(source.rows)),
      panels_((source.rows + width_ - 1) / width_),
      depth_(round_up(source.cols, 16)),
      size_(static_cast<std::size_t>(panels_ * width_ * depth_) * number_bytes()),
      memory_(allocate_aligned(size_)) {
  const std::int64_t rows_at_a_time =
      std::clamp(floats_at_a_time / std::max<std::int64_t>(in_features_, 1) / width_, std::int64_t{1}, panels_) *
      width_;
  std::vector<float> rows(static_cast<std::size_t>(std::min(rows_at_a_time, out_features_) * in_features_));
  const auto cols = static_cast<std::size_t>(in_features_);
  for (std::int64_t first = 0; first < out_features_; first += rows_at_a_time) {
    const std::int64_t count = std::min(rows_at_a_time, out_features_ - first);
    source.read(first, count, rows.data());
    for (std::int64_t r = 0; r < round_up(count, width_); ++r) {
      std::byte* out = memory_.get() + (panel((first + r) / width_) - panel(0));
      if (r % width_ == 0 && (depth_ > in_features_ || count - r < width_)) {
        std::memset(out, 0, static_cast<std::size_t>(width_ * depth_) * number_bytes());
      }
      if (r >= count) break;
      const std::span<const float> row(rows.data() + static_cast<std::size_t>(r) * cols, cols);
      if (halves_) {
        place_halves(row, r % width_, width_, reinterpret_cast<std::uint16_t*>(out));
      } else if (type_ == DType::f32) {
        place(row, r % width_, width_, reinterpret_cast<float*>(out));
      } else {
        place(row, r % width_, width_, reinterpret_cast<std::uint16_t*>(out));
      }
    }
  }
}

const CpuMatrix& as_cpu_matrix(const PackedMatrix& matrix) {
  const auto* cpu = dynamic_cast<const CpuMatrix*>(&matrix);
  if (cpu == nullptr) throw std::invalid_argument("a weight packed by another kind of device was given to the CPU");
  return *cpu;
}

}  // namespace coterie
