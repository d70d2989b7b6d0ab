// Stands in for CUDA's header of the same name: products of 16 x 16 x 16 by the lanes of a warp. A lane has 8
// neighbours of a row of the sums, and of the inputs what they need.
#pragma once

#include "tests/hostcuda/cuda_bf16.h"

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major };

template <class Use, int M, int N, int K, class T, class Layout = void>
struct fragment;
template <class Layout>
struct fragment<matrix_a, 16, 16, 16, __nv_bfloat16, Layout> {
  float x[16];  ///< a row
};
template <class Layout>
struct fragment<matrix_b, 16, 16, 16, __nv_bfloat16, Layout> {
  float x[16][8];  ///< rows of 8 columns
};
template <>
struct fragment<accumulator, 16, 16, 16, float, void> {
  float x[8];
};

inline void fill_fragment(fragment<accumulator, 16, 16, 16, float>& out, float value) {
  for (float& x : out.x) x = value;
}

/// What a GPU asks of memory and its stride.
inline void require_aligned(const void* memory, std::size_t stride_bytes) {
  if (reinterpret_cast<std::uintptr_t>(memory) % 32 != 0 || stride_bytes % 16 != 0) {
    hostcuda::fail("a matrix that isn't aligned");
  }
}

/// A lane's row, and the first of its columns.
[[nodiscard]] inline unsigned row() {
  return hostcuda::lane() / 2;
}
[[nodiscard]] inline unsigned column() {
  return hostcuda::lane() % 2 * 8;
}

template <class Layout>
void load_matrix_sync(fragment<matrix_a, 16, 16, 16, __nv_bfloat16, Layout>& out, const __nv_bfloat16* from,
                      unsigned ld) {
  require_aligned(from, ld * sizeof *from);
  constexpr bool by_row = std::is_same_v<Layout, row_major>;
  for (unsigned c = 0; c < 16; ++c) out.x[c] = __bfloat162float(from[by_row ? row() * ld + c : c * ld + row()]);
}

template <class Layout>
void load_matrix_sync(fragment<matrix_b, 16, 16, 16, __nv_bfloat16, Layout>& out, const __nv_bfloat16* from,
                      unsigned ld) {
  require_aligned(from, ld * sizeof *from);
  constexpr bool by_row = std::is_same_v<Layout, row_major>;
  const __nv_bfloat16* first = from + (by_row ? column() : column() * ld);
  for (unsigned c = 0; c < 8; ++c) {
    for (unsigned r = 0; r < 16; ++r) out.x[r][c] = __bfloat162float(first[by_row ? r * ld + c : c * ld + r]);
  }
}

template <class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& out,
              const fragment<matrix_a, 16, 16, 16, __nv_bfloat16, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, __nv_bfloat16, LayoutB>& b,
              const fragment<accumulator, 16, 16, 16, float>& before) {
  out = before;
  for (unsigned k = 0; k < 16; ++k) {
    for (unsigned i = 0; i < 8; ++i) out.x[i] += a.x[k] * b.x[k][i];
  }
}

inline void store_matrix_sync(float* to, const fragment<accumulator, 16, 16, 16, float>& from, unsigned ld, layout_t) {
  require_aligned(to, ld * sizeof *to);
  for (unsigned i = 0; i < 8; ++i) to[row() * ld + column() + i] = from.x[i];
}

}  // namespace nvcuda::wmma
