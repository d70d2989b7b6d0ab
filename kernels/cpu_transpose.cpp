#include "kernels/cpu_transpose.hpp"

#include "kernels/cpu_simd.hpp"

#include <algorithm>
#include <cstring>

namespace coterie {
namespace {

constexpr std::int64_t line_bytes = 64;

/// 16 bytes of numbers: registers that every x86-64 has; the lower and the higher halves of two, interleaved.
template <class T>
struct Register;
template <>
struct Register<std::uint16_t> {
  using type = std::uint16_t __attribute__((vector_size(16)));
  static type low(type a, type b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
  static type high(type a, type b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
};
template <>
struct Register<std::uint32_t> {
  using type = std::uint32_t __attribute__((vector_size(16)));
  static type low(type a, type b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
  static type high(type a, type b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }
};

/// A square of `side` rows: interleaving the halves of a list of registers as often as its length can be halved
/// transposes it.
template <class T>
COTERIE_INLINE void transpose_square(const T* rows, std::int64_t stride, std::int64_t width, T* panel) {
  using R = typename Register<T>::type;
  constexpr int side = 16 / sizeof(T);
  R now[side];
  R next[side];
#pragma GCC unroll 8
  for (int r = 0; r < side; ++r) load(now[r], rows + r * stride);
#pragma GCC unroll 3
  for (int left = side; left > 1; left /= 2) {
#pragma GCC unroll 4
    for (int i = 0; i < side / 2; ++i) {
      next[2 * i] = Register<T>::low(now[i], now[i + side / 2]);
      next[2 * i + 1] = Register<T>::high(now[i], now[i + side / 2]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < side; ++i) now[i] = next[i];
  }
#pragma GCC unroll 8
  for (int k = 0; k < side; ++k) store(panel + k * width, now[k]);
}

template <class T>
void transpose_rows(const T* rows, std::int64_t stride, std::int64_t count, std::int64_t cols, std::int64_t width,
                    T* panel) {
  constexpr std::int64_t side = 16 / sizeof(T);
  constexpr std::int64_t line = line_bytes / sizeof(T);
  const std::int64_t whole_rows = count / side * side;
  const std::int64_t whole_cols = cols / side * side;
  // A cache line of every row at a time: what is written meanwhile stays in the cache too.
  for (std::int64_t first = 0; first < whole_cols; first += line) {
    const std::int64_t last = std::min(first + line, whole_cols);
    for (std::int64_t r = 0; r < whole_rows; r += side) {
      for (std::int64_t k = first; k < last; k += side) {
        transpose_square(rows + r * stride + k, stride, width, panel + k * width + r);
      }
    }
  }
  for (std::int64_t r = 0; r < count; ++r) {
    for (std::int64_t k = r < whole_rows ? whole_cols : 0; k < cols; ++k) {
      std::memcpy(panel + k * width + r, rows + r * stride + k, sizeof(T));
    }
  }
}

}  // namespace

void transpose(const std::uint16_t* rows, std::int64_t stride, std::int64_t count, std::int64_t cols,
               std::int64_t width, std::uint16_t* panel) {
  transpose_rows(rows, stride, count, cols, width, panel);
}
void transpose(const std::uint32_t* rows, std::int64_t stride, std::int64_t count, std::int64_t cols,
               std::int64_t width, std::uint32_t* panel) {
  transpose_rows(rows, stride, count, cols, width, panel);
}

}  // namespace coterie
