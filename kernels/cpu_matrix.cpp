#include "kernels/cpu_matrix.hpp"

#include "kernels/cpu_simd.hpp"
#include "kernels/cpu_transpose.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace coterie {
namespace {

constexpr std::size_t cache_line = 64;
constexpr std::size_t huge_page = std::size_t{2} << 20;
constexpr std::int64_t numbers_at_a_time = 128 << 10;  // of the source: they stay in a core's cache

// Of PackedForm::layout.
constexpr std::int64_t narrow_numbers = 1;
constexpr std::int64_t upper_halves = 2;

constexpr std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

/// The widest panel that pads no more than the narrowest would.
std::int64_t panel_width(std::int64_t out_features) {
  const std::int64_t padded = round_up(out_features, 16);
  return padded % 64 == 0 ? 64 : padded % 32 == 0 ? 32 : 16;
}

COTERIE_SIMD void round_all(const float* in, std::size_t count, std::uint16_t* out) {
  for (std::size_t i = 0; i < count; ++i) out[i] = to_bf16(in[i]);
}

/// Rows of a source, some at a time.
class Rows {
 public:
  Rows(const WeightSource& source, std::int64_t at_a_time) : source_(source), most_(at_a_time * source.cols) {}

  const float* f32(std::int64_t first, std::int64_t count) {
    f32_.resize(static_cast<std::size_t>(most_));
    source_.read(first, count, f32_.data());
    return f32_.data();
  }
  const std::uint16_t* bf16(std::int64_t first, std::int64_t count) {
    bf16_.resize(static_cast<std::size_t>(most_));
    if (source_.read_bf16) {
      source_.read_bf16(first, count, bf16_.data());
    } else {
      round_all(f32(first, count), static_cast<std::size_t>(count * source_.cols), bf16_.data());
    }
    return bf16_.data();
  }

 private:
  const WeightSource& source_;
  std::int64_t most_;
  std::vector<float> f32_;
  std::vector<std::uint16_t> bf16_;
};

/// bf16 rows to a panel with two neighbouring inputs side by side.
void place_pairs(const std::uint16_t* rows, std::int64_t count, std::int64_t cols, std::int64_t width,
                 std::uint16_t* panel) {
  if (cols % 2 == 0) {
    transpose(reinterpret_cast<const std::uint32_t*>(rows), cols / 2, count, cols / 2, width,
              reinterpret_cast<std::uint32_t*>(panel));
    return;
  }
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t k = 0; k < cols; ++k) panel[(k / 2 * width + r) * 2 + k % 2] = rows[r * cols + k];
  }
}

}  // namespace

DeviceMemory allocate_aligned(std::size_t bytes) {
  constexpr std::align_val_t alignment{cache_line};
  auto* memory = static_cast<std::byte*>(::operator new[](std::max<std::size_t>(bytes, 1), alignment));
  // Weights are read from front to back, over and over: with huge pages at a fraction of the address translations.
  const auto address = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (address + huge_page - 1) / huge_page * huge_page;
  const std::uintptr_t last = (address + bytes) / huge_page * huge_page;
  if (first < last) ::madvise(memory + (first - address), last - first, MADV_HUGEPAGE);
  return {memory, [](std::byte* p) { ::operator delete[](p, std::align_val_t{cache_line}); }};
}

CpuMatrix::CpuMatrix(std::int64_t out_features, std::int64_t in_features, DType type, bool halves)
    : out_features_(out_features),
      in_features_(in_features),
      type_(type),
      halves_(halves),
      width_(panel_width(out_features)),
      panels_((out_features + width_ - 1) / width_),
      depth_(round_up(in_features, 16)),
      size_(static_cast<std::size_t>(panels_ * width_ * depth_) * number_bytes()),
      data_(nullptr) {}

CpuMatrix::CpuMatrix(const PackedForm& form, std::span<const std::byte> bytes)
    : CpuMatrix(form.out_features, form.in_features, (form.layout & narrow_numbers) != 0 ? DType::bf16 : DType::f32,
                (form.layout & upper_halves) != 0) {
  if (form.out_features < 1 || form.in_features < 1 || bytes.size() != size_) {
    throw std::invalid_argument("a packed matrix of " + std::to_string(form.out_features) + " x " +
                                std::to_string(form.in_features) + " came in " + std::to_string(bytes.size()) +
                                " bytes, " + std::to_string(size_) + " were expected");
  }
  data_ = bytes.data();
}

PackedForm CpuMatrix::form() const noexcept {
  return {out_features_, in_features_, (type_ == DType::bf16 ? narrow_numbers : 0) | (halves_ ? upper_halves : 0)};
}

CpuMatrix::CpuMatrix(const WeightSource& source, DType type)
    : CpuMatrix(source.rows, source.cols, type, type == DType::f32 && source.fits_bf16) {
  memory_ = allocate_aligned(size_);
  data_ = memory_.get();
  const std::int64_t panels_at_a_time =
      std::clamp(numbers_at_a_time / (width_ * in_features_), std::int64_t{1}, panels_);
  Rows rows(source, std::min(panels_at_a_time * width_, out_features_));
  for (std::int64_t p = 0; p < panels_; p += panels_at_a_time) {
    const std::int64_t first = p * width_;
    const std::int64_t count = std::min(panels_at_a_time * width_, out_features_ - first);
    const bool narrow = halves_ || type_ == DType::bf16;
    const std::uint16_t* bf16 = narrow ? rows.bf16(first, count) : nullptr;
    const float* f32 = narrow ? nullptr : rows.f32(first, count);
    for (std::int64_t r = 0; r < count; r += width_) {
      const std::int64_t outputs = std::min(width_, count - r);
      std::byte* out = memory_.get() + (panel((first + r) / width_) - panel(0));
      if (depth_ > in_features_ || outputs < width_) {
        std::memset(out, 0, static_cast<std::size_t>(width_ * depth_) * number_bytes());
      }
      if (halves_) {
        transpose(bf16 + r * in_features_, in_features_, outputs, in_features_, width_,
                  reinterpret_cast<std::uint16_t*>(out));
      } else if (narrow) {
        place_pairs(bf16 + r * in_features_, outputs, in_features_, width_, reinterpret_cast<std::uint16_t*>(out));
      } else {
        transpose(reinterpret_cast<const std::uint32_t*>(f32 + r * in_features_), in_features_, outputs, in_features_,
                  width_, reinterpret_cast<std::uint32_t*>(out));
      }
    }
  }
}

CpuMatrix::CpuMatrix(std::int64_t out_features, std::int64_t in_features, bool halves, std::byte* memory)
    : CpuMatrix(out_features, in_features, DType::f32, halves) {
  data_ = memory;
}

std::size_t CpuMatrix::memory_bytes(std::int64_t out_features, std::int64_t in_features, bool halves) {
  return static_cast<std::size_t>(round_up(out_features, 16) * round_up(in_features, 16)) * (halves ? 2 : 4);
}

const CpuMatrix& as_cpu_matrix(const PackedMatrix& matrix) {
  const auto* cpu = dynamic_cast<const CpuMatrix*>(&matrix);
  if (cpu == nullptr) throw std::invalid_argument("a weight packed by another kind of device was given to the CPU");
  return *cpu;
}

}  // namespace coterie
