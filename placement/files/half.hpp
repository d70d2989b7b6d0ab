// IEEE 754 binary16, as traces store gate weights.
#pragma once

#include <bit>
#include <cstdint>

namespace coterie {

/// A number of 16 bits that is read and written as a float; rounds to nearest, ties to even.
class Half {
 public:
  Half() = default;
  Half(float value) noexcept;       // NOLINT(google-explicit-constructor): stands in for a float
  operator float() const noexcept;  // NOLINT(google-explicit-constructor)
  [[nodiscard]] static Half from_bits(std::uint16_t bits) noexcept {
    Half h;
    h.bits_ = bits;
    return h;
  }
  [[nodiscard]] std::uint16_t bits() const noexcept { return bits_; }
  [[nodiscard]] bool is_finite() const noexcept { return (bits_ & 0x7c00U) != 0x7c00U; }

 private:
  std::uint16_t bits_ = 0;
};

// Here, as the innermost loops over traces read weights. The processor's own arithmetic does the shifting.
inline Half::operator float() const noexcept {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits_ & 0x8000U) << 16;
  const std::uint32_t magnitude = bits_ & 0x7fffU;
  if (!is_finite()) return std::bit_cast<float>(sign | 0x7f800000U | (magnitude & 0x3ffU) << 13);
  // Read as a float, the bits mean 2^-112 of the value, subnormals included.
  const float value = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(value));
}

}  // namespace coterie
