#include "kernels/cpu_gemm.hpp"

#include "kernels/cpu_simd.hpp"

#include <algorithm>

namespace coterie {
namespace {

using Bits16 = std::uint32_t __attribute__((vector_size(64)));
using Bits8 = std::uint32_t __attribute__((vector_size(32)));
using Bits4 = std::uint32_t __attribute__((vector_size(16)));

template <class V>
struct BitsOf;
template <>
struct BitsOf<Float16> {
  using type = Bits16;
};
template <>
struct BitsOf<Float8> {
  using type = Bits8;
};
template <>
struct BitsOf<Float4> {
  using type = Bits4;
};

/// One step of the sums: `inputs` inputs of a row against a register's outputs, 4 bytes of input and of each output.
struct F32Step {
  static constexpr std::int64_t inputs = 1;
  template <class V>
  COTERIE_INLINE static void add(V& sum, const V& weights, const std::byte* in) {
    float x = 0;
    std::memcpy(&x, in, sizeof x);
    sum += weights * x;
  }
};

/// Without instructions for bf16: its bits are the upper half of a float's.
struct Bf16Step {
  static constexpr std::int64_t inputs = 2;
  template <class V>
  COTERIE_INLINE static void add(V& sum, const V& weights, const std::byte* in) {
    using Bits = typename BitsOf<V>::type;
    std::uint32_t pair = 0;
    std::memcpy(&pair, in, sizeof pair);
    Bits low;
    load(low, &weights);
    const Bits high = low & 0xffff0000U;
    low = low << 16;
    V even;
    V odd;
    load(even, &low);
    load(odd, &high);
    sum += even * std::bit_cast<float>(pair << 16);
    sum += odd * std::bit_cast<float>(pair & 0xffff0000U);
  }
};

/// R rows against `Vectors` registers of outputs.
template <class Step, class V, int Vectors, int R>
COTERIE_INLINE void tile(const GemmTask& task, const std::byte* in, const std::byte* weights, std::int64_t steps,
                         float* out, std::int64_t outputs) {
  const std::int64_t width = task.weight->width();
  const std::int64_t row_bytes = task.in_stride * static_cast<std::int64_t>(4 / Step::inputs);
  V sums[R][Vectors] = {};
  for (std::int64_t s = 0; s < steps; ++s, weights += width * 4) {
    V w[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) load(w[v], weights + static_cast<std::size_t>(v) * sizeof(V));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) Step::add(sums[r][v], w[v], in + r * row_bytes + s * 4);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* row = out + r * task.out_stride;
    if (outputs == Vectors * lanes<V>) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        V sum = sums[r][v];
        if (task.accumulate) {
          V before;
          load(before, row + v * lanes<V>);
          sum = before + sum;
        }
        store(row + v * lanes<V>, sum);
      }
    } else {
      float last[Vectors * lanes<V>];
      std::memcpy(last, sums[r], sizeof last);
      for (std::int64_t n = 0; n < outputs; ++n) row[n] = task.accumulate ? row[n] + last[n] : last[n];
    }
  }
}

/// All rows, `R` at a time, the rest with fewer.
template <class Step, class V, int Vectors, int R>
COTERIE_INLINE void rows_down(const GemmTask& task, std::int64_t row, const std::byte* weights, std::int64_t steps,
                              std::int64_t first_output, std::int64_t outputs) {
  const auto in = [&](std::int64_t r) { return task.in + r * task.in_stride * (4 / Step::inputs); };
  const auto out = [&](std::int64_t r) { return task.out + r * task.out_stride + first_output; };
  for (; row + R <= task.rows; row += R) {
    tile<Step, V, Vectors, R>(task, in(row), weights, steps, out(row), outputs);
  }
  if constexpr (R > 1) {
    if (row < task.rows) rows_down<Step, V, Vectors, R - 1>(task, row, weights, steps, first_output, outputs);
  }
}

/// Blocks of `Vectors` registers of each panel, as many as fit; R rows at a time fill the registers.
template <class Step, class V, int Vectors, int R>
COTERIE_INLINE void panels_of(const GemmTask& task) {
  const CpuMatrix& weight = *task.weight;
  const std::int64_t steps = (weight.in_features() + Step::inputs - 1) / Step::inputs;
  constexpr int block = Vectors * lanes<V>;
  for (std::int64_t p = task.first_panel; p < task.first_panel + task.panels; ++p) {
    for (std::int64_t column = 0; column < weight.width(); column += block) {
      const std::int64_t first = p * weight.width() + column;
      const std::int64_t outputs = std::min<std::int64_t>(block, weight.out_features() - first);
      if (outputs <= 0) break;
      rows_down<Step, V, Vectors, R>(task, 0, weight.panel(p) + column * 4, steps, first, outputs);
    }
  }
}

template <class Step>
COTERIE_V4 void multiply_avx512(const GemmTask& task) {
  switch (task.weight->width()) {
    case 64:
      return panels_of<Step, Float16, 4, 6>(task);
    case 32:
      return panels_of<Step, Float16, 2, 8>(task);
    default:
      return panels_of<Step, Float16, 1, 8>(task);
  }
}
template <class Step>
COTERIE_V3 void multiply_avx2(const GemmTask& task) {
  panels_of<Step, Float8, 2, 6>(task);
}
template <class Step>
void multiply_any(const GemmTask& task) {
  panels_of<Step, Float4, 2, 6>(task);
}

#if defined(__x86_64__)
/// In assembly: an intrinsic can't be inlined into templates that are compiled for several processors.
struct NativeBf16Step {
  static constexpr std::int64_t inputs = 2;
  COTERIE_INLINE static void add(Float16& sum, const Float16& weights, const std::byte* in) {
    asm("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*reinterpret_cast<const std::uint32_t*>(in)));
  }
};
COTERIE_V4 void multiply_avx512_bf16(const GemmTask& task) {
  switch (task.weight->width()) {
    case 64:
      return panels_of<NativeBf16Step, Float16, 4, 6>(task);
    case 32:
      return panels_of<NativeBf16Step, Float16, 2, 8>(task);
    default:
      return panels_of<NativeBf16Step, Float16, 1, 8>(task);
  }
}
#endif

using Multiply = void(const GemmTask&);

Multiply* bf16_for_processor() {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::avx512_bf16) return multiply_avx512_bf16;
#endif
  return for_processor<Multiply>(multiply_avx512<Bf16Step>, multiply_avx2<Bf16Step>, multiply_any<Bf16Step>);
}

Multiply* const multiply_f32 =
    for_processor<Multiply>(multiply_avx512<F32Step>, multiply_avx2<F32Step>, multiply_any<F32Step>);
Multiply* const multiply_bf16 = bf16_for_processor();

}  // namespace

void multiply(const GemmTask& task) {
  (task.weight->type() == DType::f32 ? multiply_f32 : multiply_bf16)(task);
}

}  // namespace coterie
