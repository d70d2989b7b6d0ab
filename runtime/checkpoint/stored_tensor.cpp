#include "runtime/checkpoint/stored_tensor.hpp"

#include "placement/files/half.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <type_traits>

namespace coterie {
namespace {

constexpr std::int64_t kGroup = 32;  // numbers of MXFP4 that share a scale
constexpr std::int64_t kGroupBytes = 16;

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

float from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
std::uint16_t upper_half(float value) {
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16);
}

/// A number that fits bf16, as either type.
void put(float value, float& out) {
  out = value;
}
void put(float value, std::uint16_t& out) {
  out = upper_half(value);
}

/// 4 bits of exponent and 3 of mantissa; all ones is not a number, and nothing is infinite.
std::array<float, 256> make_e4m3() {
  std::array<float, 256> values{};
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = bits >> 3 & 15;
    const int mantissa = bits & 7;
    float value = exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -9)
                                : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
    if (exponent == 15 && mantissa == 7) value = std::numeric_limits<float>::quiet_NaN();
    values[static_cast<std::size_t>(bits)] = bits < 128 ? value : -value;
  }
  return values;
}

float e8m0(std::byte bits) {
  const int exponent = std::to_integer<int>(bits);
  return exponent == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0F, exponent - 127);
}

/// (scale, number): MXFP4 numbers as bf16, which all of them are.
std::array<std::array<std::uint16_t, 16>, 256> make_mxfp4() {
  constexpr std::array<float, 8> kMagnitudes{0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  std::array<std::array<std::uint16_t, 16>, 256> values{};
  for (std::size_t scale = 0; scale < 256; ++scale) {
    for (std::size_t number = 0; number < 16; ++number) {
      const float magnitude = kMagnitudes[number % 8] * e8m0(static_cast<std::byte>(scale));
      values[scale][number] = upper_half(number < 8 ? magnitude : -magnitude);
    }
  }
  return values;
}

const std::array<float, 256> e4m3 = make_e4m3();
const std::array<std::array<std::uint16_t, 16>, 256> mxfp4_numbers_of_scale = make_mxfp4();

/// Whether the rows lie one after the other.
bool dense(const WeightRef& ref) {
  return ref.col_stride == 1 && ref.row_stride == ref.cols;
}

/// Bytes of an array: where they are in the file, or copied.
class Bytes {
 public:
  Bytes(const StoredArray& array, std::int64_t first, std::int64_t count, bool copied)
      : bytes_(array.tensor->bytes.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count))) {
    if (!copied) return;
    memory_ = std::make_unique_for_overwrite<std::byte[]>(bytes_.size());
    array.file->read(bytes_, memory_.get());
    bytes_ = {memory_.get(), bytes_.size()};
  }
  [[nodiscard]] std::span<const std::byte> get() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
  std::unique_ptr<std::byte[]> memory_;
};

/// A scale that only moves the exponent, and no number of 8 bits out of bf16's range.
bool keeps_bf16(float scale) {
  return (std::bit_cast<std::uint32_t>(scale) & 0x7fffffU) == 0 && std::abs(scale) > 0x1p-100F &&
         std::abs(scale) < 0x1p100F;
}

}  // namespace

void expand(ElementType type, std::span<const std::byte> bytes, float* out) {
  const std::size_t n = bytes.size() / size_of(type);
  switch (type) {
    case ElementType::f32:
      std::memcpy(out, bytes.data(), bytes.size());
      return;
    case ElementType::bf16:
      for (std::size_t i = 0; i < n; ++i) out[i] = from_bf16(load<std::uint16_t>(&bytes[2 * i]));
      return;
    case ElementType::f16:
      for (std::size_t i = 0; i < n; ++i) out[i] = Half::from_bits(load<std::uint16_t>(&bytes[2 * i]));
      return;
    case ElementType::f8_e4m3:
      for (std::size_t i = 0; i < n; ++i) out[i] = e4m3[std::to_integer<std::size_t>(bytes[i])];
      return;
    case ElementType::f8_e8m0:
      for (std::size_t i = 0; i < n; ++i) out[i] = e8m0(bytes[i]);
      return;
    default:
      throw std::invalid_argument("no expansion of " + std::string(name_of(type)) + " to f32");
  }
}

StoredTensor::StoredTensor(const StoredArrays& arrays) : arrays_(arrays) {
  if (arrays.encoding == Encoding::plain) fits_bf16_ = arrays.numbers.tensor->type == ElementType::bf16;
  if (arrays.encoding == Encoding::mxfp4) fits_bf16_ = true;
  if (arrays.encoding != Encoding::fp8) return;
  const TensorView& scales = *arrays.scales.tensor;
  scales_.resize(scales.bytes.size() / size_of(scales.type));
  // E8M0 is U8 in files older than the type.
  expand(scales.type == ElementType::u8 ? ElementType::f8_e8m0 : scales.type, scales.bytes, scales_.data());
  fits_bf16_ = std::all_of(scales_.begin(), scales_.end(), keeps_bf16);
}

void StoredTensor::read(const WeightRef& ref, std::int64_t first, std::int64_t count, float* out) const {
  rows(ref, first, count, out);
}
void StoredTensor::read(const WeightRef& ref, std::int64_t first, std::int64_t count, std::uint16_t* out) const {
  if (!fits_bf16_) throw std::invalid_argument(ref.tensor + " doesn't fit bf16");
  rows(ref, first, count, out);
}

template <class T>
void StoredTensor::rows(const WeightRef& ref, std::int64_t first, std::int64_t count, T* out) const {
  const std::int64_t begin = ref.offset + first * ref.row_stride;
  if (dense(ref)) return numbers(begin, count * ref.cols, true, out);
  if (ref.col_stride == 1 && ref.cols > 1) {
    for (std::int64_t r = 0; r < count; ++r) {
      numbers(begin + r * ref.row_stride, ref.cols, false, out + r * ref.cols);
    }
  } else {  // stored column after column: read in that order
    std::vector<T> column(static_cast<std::size_t>((count - 1) * ref.row_stride + 1));
    for (std::int64_t c = 0; c < ref.cols; ++c) {
      numbers(begin + c * ref.col_stride, static_cast<std::int64_t>(column.size()), false, column.data());
      for (std::int64_t r = 0; r < count; ++r) {
        out[r * ref.cols + c] = column[static_cast<std::size_t>(r * ref.row_stride)];
      }
    }
  }
  // Rows that lie apart share pages with rows still to come.
  if (first + count == ref.rows) arrays_.numbers.file->release(arrays_.numbers.tensor->bytes);
}

template <class T>
void StoredTensor::numbers(std::int64_t first, std::int64_t count, bool once, T* out) const {
  if (arrays_.encoding == Encoding::mxfp4) {
    const std::int64_t groups = (first + count - 1) / kGroup + 1 - first / kGroup;
    const Bytes bytes(arrays_.numbers, first / kGroup * kGroupBytes, groups * kGroupBytes, once);
    return mxfp4_numbers(first, count, bytes.get(), out);
  }
  const ElementType type = arrays_.numbers.tensor->type;
  const auto size = static_cast<std::int64_t>(size_of(type));
  if (once && type == (std::is_same_v<T, float> ? ElementType::f32 : ElementType::bf16)) {
    return arrays_.numbers.file->read(Bytes(arrays_.numbers, first * size, count * size, false).get(),
                                      reinterpret_cast<std::byte*>(out));
  }
  const Bytes bytes(arrays_.numbers, first * size, count * size, once);
  if (arrays_.encoding == Encoding::fp8) return fp8_numbers(first, bytes.get(), out);
  if constexpr (std::is_same_v<T, float>) {
    expand(type, bytes.get(), out);
  } else {
    std::memcpy(out, bytes.get().data(), bytes.get().size());
  }
}

template <class T>
void StoredTensor::fp8_numbers(std::int64_t first, std::span<const std::byte> bytes, T* out) const {
  const Shape& shape = arrays_.numbers.tensor->shape;
  const std::int64_t rows = shape[shape.size() - 2];
  const std::int64_t cols = shape.back();
  const auto& [encoding, numbers, scales, block_rows, block_cols] = arrays_;
  const std::int64_t down = (rows + block_rows - 1) / block_rows;
  const std::int64_t across = (cols + block_cols - 1) / block_cols;
  const auto last = first + static_cast<std::int64_t>(bytes.size());
  const std::byte* at = bytes.data();
  while (first < last) {
    const std::int64_t row = first / cols % rows;
    const std::int64_t col = first % cols;
    const std::int64_t block = col / block_cols;
    const std::int64_t run = std::min({last - first, cols - col, (block + 1) * block_cols - col});
    const float scale =
        scales_[static_cast<std::size_t>((first / (rows * cols) * down + row / block_rows) * across + block)];
    for (std::int64_t i = 0; i < run; ++i) put(e4m3[std::to_integer<std::size_t>(at[i])] * scale, out[i]);
    first += run;
    at += run;
    out += run;
  }
}

template <class T>
void StoredTensor::mxfp4_numbers(std::int64_t first, std::int64_t count, std::span<const std::byte> bytes,
                                 T* out) const {
  const std::byte* at = bytes.data();
  const std::byte* scale = arrays_.scales.tensor->bytes.data() + first / kGroup;
  for (std::int64_t skipped = first % kGroup; count > 0; skipped = 0, at += kGroupBytes, ++scale) {
    const auto& values = mxfp4_numbers_of_scale[std::to_integer<std::size_t>(*scale)];
    std::array<T, kGroup> group;
    for (std::size_t i = 0; i < kGroupBytes; ++i) {
      const auto pair = std::to_integer<std::size_t>(at[i]);
      if constexpr (std::is_same_v<T, float>) {
        group[2 * i] = from_bf16(values[pair & 15]);
        group[2 * i + 1] = from_bf16(values[pair >> 4]);
      } else {
        group[2 * i] = values[pair & 15];
        group[2 * i + 1] = values[pair >> 4];
      }
    }
    const std::int64_t taken = std::min(count, kGroup - skipped);
    std::copy_n(group.begin() + skipped, taken, out);
    out += taken;
    count -= taken;
  }
}

}  // namespace coterie
