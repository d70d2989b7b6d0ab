#include "kernels/cpu_gemm.hpp"

#include "kernels/cpu_simd.hpp"

#include <algorithm>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace coterie {
namespace {

constexpr std::int64_t piece_inputs = 1024;  // summed by themselves: a panel's piece, 256 KiB, stays in a core's cache

using Bits16 = std::uint32_t __attribute__((vector_size(64)));
using Bits8 = std::uint32_t __attribute__((vector_size(32)));
using Bits4 = std::uint32_t __attribute__((vector_size(16)));

template <class V>
struct BitsOf;
template <>
struct BitsOf<Float16> {
  using type = Bits16;
  using halves = std::uint16_t __attribute__((vector_size(32)));
};
template <>
struct BitsOf<Float8> {
  using type = Bits8;
  using halves = std::uint16_t __attribute__((vector_size(16)));
};
template <>
struct BitsOf<Float4> {
  using type = Bits4;
  using halves = std::uint16_t __attribute__((vector_size(8)));
};

template <class V>
COTERIE_INLINE void load_register(V& weights, const std::byte* from, int index) {
  load(weights, from + static_cast<std::size_t>(index) * sizeof(V));
}

/// One step of the sums: `inputs` inputs of a row, read once, against a register's outputs.
struct F32Step {
  static constexpr std::int64_t inputs = 1;
  static constexpr std::int64_t weight_bytes = 4;  ///< of one output
  template <class V>
  COTERIE_INLINE static void load_weights(V& weights, const std::byte* from, int index) {
    load_register(weights, from, index);
  }
  using Input = float;
  COTERIE_INLINE static void read(float& input, const std::byte* in) { std::memcpy(&input, in, sizeof input); }
  template <class V>
  COTERIE_INLINE static void add(V& sum, const V& weights, float input) {
    sum += weights * input;
  }
};

/// Weights kept as the upper halves of floats.
struct HalvesStep : F32Step {
  static constexpr std::int64_t weight_bytes = 2;
  template <class V>
  COTERIE_INLINE static void load_weights(V& weights, const std::byte* from, int index) {
    using Bits = typename BitsOf<V>::type;
    using Halves = typename BitsOf<V>::halves;
    Halves halves;
    load(halves, from + static_cast<std::size_t>(index) * sizeof halves);
    const Bits bits = __builtin_convertvector(halves, Bits) << 16;
    load(weights, &bits);
  }
};

/// Without instructions for bf16: its bits are the upper half of a float's.
struct Bf16Step {
  static constexpr std::int64_t inputs = 2;
  static constexpr std::int64_t weight_bytes = 4;
  template <class V>
  COTERIE_INLINE static void load_weights(V& weights, const std::byte* from, int index) {
    load_register(weights, from, index);
  }
  struct Input {
    float even;
    float odd;
  };
  COTERIE_INLINE static void read(Input& input, const std::byte* in) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, in, sizeof bits);
    input = {std::bit_cast<float>(bits << 16), std::bit_cast<float>(bits & 0xffff0000U)};
  }
  template <class V>
  COTERIE_INLINE static void add(V& sum, const V& weights, const Input& input) {
    using Bits = typename BitsOf<V>::type;
    Bits low;
    load(low, &weights);
    const Bits high = low & 0xffff0000U;
    low = low << 16;
    V even;
    V odd;
    load(even, &low);
    load(odd, &high);
    sum += even * input.even;
    sum += odd * input.odd;
  }
};

/// Where a tile is.
struct Corner {
  const std::byte* in;
  const std::byte* weights;
  float* out;
  std::int64_t steps;    ///< of the sums
  std::int64_t outputs;  ///< that exist
  bool add;              ///< to what `out` holds
};

template <class V, int Vectors, int R>
COTERIE_INLINE void put(const GemmTask& task, const Corner& at, const V (&sums)[R][Vectors]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* row = at.out + r * task.out_stride;
    if (at.outputs == Vectors * lanes<V>) {
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        V sum = sums[r][v];
        if (at.add) {
          V before;
          load(before, row + v * lanes<V>);
          sum = before + sum;
        }
        store(row + v * lanes<V>, sum);
      }
    } else {
      float last[Vectors * lanes<V>];
      std::memcpy(last, sums[r], sizeof last);
      for (std::int64_t n = 0; n < at.outputs; ++n) row[n] = at.add ? row[n] + last[n] : last[n];
    }
  }
}

/// With them: native_bf16_tile().
struct NativeBf16Step {
  static constexpr std::int64_t inputs = 2;
  static constexpr std::int64_t weight_bytes = 4;
};

/// R rows against `Vectors` registers of outputs.
template <class Step, class V, int Vectors, int R>
COTERIE_INLINE void tile(const GemmTask& task, const Corner& at) {
  const std::int64_t step_bytes = task.weight->width() * Step::weight_bytes;
  const std::int64_t row_bytes = task.in_stride * (4 / Step::inputs);
  const std::byte* weights = at.weights;
  V sums[R][Vectors] = {};
  for (std::int64_t s = 0; s < at.steps; ++s, weights += step_bytes) {
    V w[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v) Step::load_weights(w[v], weights, v);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      typename Step::Input input;
      Step::read(input, at.in + r * row_bytes + s * 4);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) Step::add(sums[r][v], w[v], input);
    }
  }
  put(task, at, sums);
}

#if defined(__x86_64__)
/// The same with the processor's own bf16. A function by itself: its intrinsics can't be inlined into templates that
/// are compiled for several processors.
template <int Vectors, int R>
[[gnu::target("arch=x86-64-v4,avx512bf16")]] void native_bf16_tile(const GemmTask& task, const Corner& at) {
  const std::int64_t step_bytes = task.weight->width() * 4;
  const std::int64_t row_bytes = task.in_stride * 2;
  const std::byte* weights = at.weights;
  Float16 sums[R][Vectors] = {};
  for (std::int64_t s = 0; s < at.steps; ++s, weights += step_bytes) {
    __m512i w[Vectors];
#pragma GCC unroll 8
    for (int v = 0; v < Vectors; ++v)
      w[v] = _mm512_loadu_si512(weights + static_cast<std::size_t>(v) * sizeof(Float16));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      int pair = 0;
      std::memcpy(&pair, at.in + r * row_bytes + s * 4, sizeof pair);
      const __m512i input = _mm512_set1_epi32(pair);
#pragma GCC unroll 8
      for (int v = 0; v < Vectors; ++v) {
        sums[r][v] = _mm512_dpbf16_ps(sums[r][v], reinterpret_cast<__m512bh>(input), reinterpret_cast<__m512bh>(w[v]));
      }
    }
  }
  put(task, at, sums);
}
#endif

/// `rows` rows, at most R.
template <class Step, class V, int Vectors, int R>
COTERIE_INLINE void tile_of(std::int64_t rows, const GemmTask& task, const Corner& at) {
  if (rows == R) {
    if constexpr (std::is_same_v<Step, NativeBf16Step>) {
      native_bf16_tile<Vectors, R>(task, at);
    } else {
      tile<Step, V, Vectors, R>(task, at);
    }
    return;
  }
  if constexpr (R > 1) tile_of<Step, V, Vectors, R - 1>(rows, task, at);
}

/// Tiles of `Vectors` registers of outputs and R rows, which fill the registers, or a little fewer rows so that all
/// tiles are about the same; piece by piece of the inputs, so that a panel's piece stays in the cache.
template <class Step, class V, int Vectors, int R>
COTERIE_INLINE void tiles_of(const GemmTask& task) {
  const CpuMatrix& weight = *task.weight;
  const std::int64_t steps = (weight.in_features() + Step::inputs - 1) / Step::inputs;
  const std::int64_t tiles = (task.rows + R - 1) / R;
  constexpr int block = Vectors * lanes<V>;
  for (std::int64_t step = 0; step < steps; step += piece_inputs / Step::inputs) {
    for (std::int64_t column = task.first_panel * weight.width();
         column < (task.first_panel + task.panels) * weight.width(); column += block) {
      Corner at;
      at.steps = std::min<std::int64_t>(piece_inputs / Step::inputs, steps - step);
      at.outputs = std::min<std::int64_t>(block, weight.out_features() - column);
      at.add = task.accumulate || step > 0;
      if (at.outputs <= 0) break;
      at.weights = weight.panel(column / weight.width()) +
                   (step * weight.width() + column % weight.width()) * Step::weight_bytes;
      for (std::int64_t t = 0; t < tiles; ++t) {
        const std::int64_t row = task.rows * t / tiles;
        at.in = task.in + (row * task.in_stride / Step::inputs + step) * 4;
        at.out = task.out + row * task.out_stride + column;
        tile_of<Step, V, Vectors, R>(task.rows * (t + 1) / tiles - row, task, at);
      }
    }
  }
}

template <class Step>
COTERIE_V4 void multiply_avx512(const GemmTask& task) {
  switch (task.weight->width()) {
    case 64:
      return tiles_of<Step, Float16, 4, 6>(task);
    case 32:
      return tiles_of<Step, Float16, 2, 8>(task);
    default:
      return tiles_of<Step, Float16, 1, 8>(task);
  }
}
template <class Step>
COTERIE_V3 void multiply_avx2(const GemmTask& task) {
  tiles_of<Step, Float8, 2, 6>(task);
}
template <class Step>
void multiply_any(const GemmTask& task) {
  tiles_of<Step, Float4, 2, 6>(task);
}

#if defined(__x86_64__)
COTERIE_V4 void multiply_avx512_bf16(const GemmTask& task) {
  switch (task.weight->width()) {
    case 64:
      return tiles_of<NativeBf16Step, Float16, 4, 6>(task);
    case 32:
      return tiles_of<NativeBf16Step, Float16, 2, 8>(task);
    default:
      return tiles_of<NativeBf16Step, Float16, 1, 8>(task);
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
Multiply* const multiply_halves =
    for_processor<Multiply>(multiply_avx512<HalvesStep>, multiply_avx2<HalvesStep>, multiply_any<HalvesStep>);
Multiply* const multiply_bf16 = bf16_for_processor();

}  // namespace

void multiply(const GemmTask& task) {
  const CpuMatrix& weight = *task.weight;
  (weight.halves() ? multiply_halves : weight.type() == DType::f32 ? multiply_f32 : multiply_bf16)(task);
}

}  // namespace coterie
