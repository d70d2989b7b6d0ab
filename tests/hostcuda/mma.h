// Stands in for CUDA's header of the same name: products of 16 x 16 x 16 by the lanes of a warp. A lane keeps the
// inputs whole, and 8 numbers of the sums.
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
struct fragment {
  static_assert(M == 16 && N == 16 && K == 16);
  float x[256];  ///< row by row
};
template <int M, int N, int K>
struct fragment<accumulator, M, N, K, float, void> {
  float x[8];
};

inline void fill_fragment(fragment<accumulator, 16, 16, 16, float>& out, float value) {
  for (float& x : out.x) x = value;
}

template <class Use, class Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, __nv_bfloat16, Layout>& out, const __nv_bfloat16* from, unsigned ld) {
  for (unsigned r = 0; r < 16; ++r) {
    for (unsigned c = 0; c < 16; ++c) {
      const unsigned at = std::is_same_v<Layout, row_major> ? r * ld + c : c * ld + r;
      out.x[r * 16 + c] = __bfloat162float(from[at]);
    }
  }
}

template <class LayoutA, class LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& out,
              const fragment<matrix_a, 16, 16, 16, __nv_bfloat16, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, __nv_bfloat16, LayoutB>& b,
              const fragment<accumulator, 16, 16, 16, float>& before) {
  for (unsigned i = 0; i < 8; ++i) {
    const unsigned at = hostcuda::lane() * 8 + i;
    float sum = before.x[i];
    for (unsigned k = 0; k < 16; ++k) sum += a.x[at / 16 * 16 + k] * b.x[k * 16 + at % 16];
    out.x[i] = sum;
  }
}

inline void store_matrix_sync(float* to, const fragment<accumulator, 16, 16, 16, float>& from, unsigned ld, layout_t) {
  for (unsigned i = 0; i < 8; ++i) {
    const unsigned at = hostcuda::lane() * 8 + i;
    to[at / 16 * ld + at % 16] = from.x[i];
  }
}

}  // namespace nvcuda::wmma
