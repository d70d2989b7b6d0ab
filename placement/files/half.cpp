#include "placement/files/half.hpp"

namespace coterie {

Half::Half(float value) noexcept {
  const auto whole = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(whole >> 16 & 0x8000U);
  const std::uint32_t magnitude = whole & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    bits_ = sign | 0x7e00U;  // NaN
  } else if (magnitude >= 0x477ff000U) {
    bits_ = sign | 0x7c00U;  // 65520 and more round to infinity
  } else if (magnitude < 0x38800000U) {
    // Subnormal: adding 0.5 leaves multiples of 2^-24 in the last bits.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    bits_ = sign | static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(shifted) - 0x3f000000U);
  } else {
    const std::uint32_t odd = magnitude >> 13 & 1U;
    bits_ = sign | static_cast<std::uint16_t>((magnitude - 0x38000000U + 0xfffU + odd) >> 13);
  }
}

}  // namespace coterie
