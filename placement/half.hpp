// IEEE 754 binary16, as traces store gate weights.
#pragma once

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

}  // namespace coterie
