// How the CPU device's inner loops are compiled: for AVX-512, for AVX2 and for any x86-64, chosen when the program
// starts.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

/// Compiles a function of plain loops once per instruction set; the loader binds the processor's. Not under
/// ThreadSanitizer, whose runtime is not up yet when the loader asks.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define COTERIE_SIMD [[gnu::target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")]]
#else
#define COTERIE_SIMD
#endif

#define COTERIE_INLINE [[gnu::always_inline]] inline

#if defined(__x86_64__)
#define COTERIE_V4 [[gnu::target("arch=x86-64-v4")]]
#define COTERIE_V3 [[gnu::target("arch=x86-64-v3")]]
#else
#define COTERIE_V4
#define COTERIE_V3
#endif

namespace coterie {

enum class InstructionSet { any, avx2, avx512, avx512_bf16 };

/// The best that this processor has, and that the environment's COTERIE_MAX_ISA (any, avx2 or avx512) allows: with it
/// one machine can try the code of another.
[[nodiscard]] InstructionSet instruction_set();

/// The variant of a function for this processor.
template <class Function>
[[nodiscard]] Function* for_processor(Function* avx512, Function* avx2, Function* any) {
  const InstructionSet best = instruction_set();
  return best >= InstructionSet::avx512 ? avx512 : best == InstructionSet::avx2 ? avx2 : any;
}

/// Floats of one register of each instruction set, and as they lie in memory.
using Float16 = float __attribute__((vector_size(64)));
using Float8 = float __attribute__((vector_size(32)));
using Float4 = float __attribute__((vector_size(16)));

template <class V>
inline constexpr int lanes = sizeof(V) / sizeof(float);

template <class V>
COTERIE_INLINE void load(V& out, const void* from) {
  std::memcpy(&out, from, sizeof(V));
}
template <class V>
COTERIE_INLINE void store(void* to, const V& value) {
  std::memcpy(to, &value, sizeof(V));
}

/// Round to nearest even; NaN stays NaN.
COTERIE_INLINE std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return static_cast<std::uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? (bits >> 16) | 0x40 : rounded);
}
COTERIE_INLINE float from_bf16(std::uint16_t value) {
  return std::bit_cast<float>(std::uint32_t{value} << 16);
}

template <class To, class From>
COTERIE_INLINE void same_bits(To& to, const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  std::memcpy(&to, &from, sizeof to);
}

/// x = e^x within 2 units in the last place; 0 below -87.3, infinity above 88.7, NaN for NaN. F: float, or a register
/// of them, and I integers of the same size.
template <class F, class I>
COTERIE_INLINE void exponential(F& x) {
  const F least = F{} - 87.33654F;
  const F most = F{} + 88.72283F;
  F y = x < least ? least : x;
  y = y > most ? most : y;
  const F shifted = y * 1.44269504F + 12582912.0F;  // rounds: the integer is in the low bits
  const F n = shifted - 12582912.0F;
  const F r = (y - n * 0.693359375F) + n * 2.12194440e-4F;
  F p = F{} + 1.9875691500e-4F;
  p = p * r + 1.3981999507e-3F;
  p = p * r + 8.3334519073e-3F;
  p = p * r + 4.1665795894e-2F;
  p = p * r + 1.6666665459e-1F;
  p = p * r + 5.0000001201e-1F;
  p = p * (r * r) + r + 1.0F;
  // 2^n in two factors, since n may be 128.
  I exponent;
  same_bits(exponent, shifted);
  exponent -= 0x4b400000;
  const I half = exponent >> 1;
  const I low = (half + 127) << 23;
  const I high = (exponent - half + 127) << 23;
  F low_factor;
  F high_factor;
  same_bits(low_factor, low);
  same_bits(high_factor, high);
  y = p * low_factor * high_factor;
  y = x < least ? F{} : y;
  x = x > most ? F{} + __builtin_inff() : y;
}

/// The same for plain loops, which the compiler turns into registers.
COTERIE_INLINE float fast_exp(float x) {
  exponential<float, std::int32_t>(x);
  return x;
}

}  // namespace coterie
