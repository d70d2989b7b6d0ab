// Stands in for the header of the same name (kernels/cuda/mma.hpp), which says what these do. A lane has what its sums
// are made of; copies end at once or when a thread waits for them.
#pragma once

#include "kernels/cuda/gpu.hpp"

namespace coterie {

struct LeftMatrix {
  float x[16][2];  ///< of two rows
};
struct RightMatrix {
  float x[16][2][2];  ///< of four columns
};

namespace mma {
void require_aligned(const void* address);
void copy(void* shared, const void* global, bool real);
void wait_for_copies(std::size_t groups);
}  // namespace mma

inline void load_left(LeftMatrix& out, const Bf16* rows, int stride) {
  const auto row = static_cast<int>(hostcuda::lane() / 4);
  for (int i = 0; i < 2; ++i) {
    const Bf16* from = rows + (row + 8 * i) * stride;
    mma::require_aligned(from);
    for (int k = 0; k < 16; ++k) out.x[k][i] = __bfloat162float(from[k]);
  }
}
inline void load_right(RightMatrix& out, const Bf16* columns, int stride) {
  const auto column = static_cast<int>(2 * (hostcuda::lane() % 4));
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 2; ++i) {
      const Bf16* from = columns + (8 * j + column + i) * stride;
      mma::require_aligned(from);
      for (int k = 0; k < 16; ++k) out.x[k][j][i] = __bfloat162float(from[k]);
    }
  }
}
inline void multiply(float (&sums)[8], const LeftMatrix& left, const RightMatrix& right) {
  for (int k = 0; k < 16; ++k) {
    for (unsigned i = 0; i < 8; ++i) sums[i] += left.x[k][i / 2 % 2] * right.x[k][i / 4][i % 2];
  }
}

inline void copy_async(void* shared, const void* global, bool real) {
  mma::copy(shared, global, real);
}
void copies_commit();
template <int Groups>
void copies_wait() {
  mma::wait_for_copies(Groups);
}

}  // namespace coterie
