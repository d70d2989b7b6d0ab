// Stands in for CUDA's header of the same name.
#pragma once

#include "tests/hostcuda/cuda_runtime.h"

#include <bit>

struct __nv_bfloat16 {
  std::uint16_t bits = 0;
};

/// To the nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return {static_cast<std::uint16_t>((bits >> 16) | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}
inline float __bfloat162float(__nv_bfloat16 value) {
  return std::bit_cast<float>(std::uint32_t{value.bits} << 16);
}
