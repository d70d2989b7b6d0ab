// Stands in for the header of the same name (kernels/cuda/mma.hpp), which says what these do. A lane has what its sums
// are made of; copies end at once or when a thread waits for them.
#pragma once

#include "kernels/cuda/gpu.hpp"

namespace coterie {

struct LeftMatrix {
  float x[2][16];  ///< rows
};
struct RightMatrix {
  float x[2][2][16];  ///< columns
};

namespace mma {
/// 16 numbers of shared memory.
void read(float (&out)[16], const Bf16* from);
void copy(void* shared, const void* global, bool real);
void wait_for_copies(std::size_t groups);
}  // namespace mma

inline void load_left(LeftMatrix& out, const Bf16* rows, int stride) {
  const auto row = static_cast<int>(hostcuda::lane() / 4);
  for (int i = 0; i < 2; ++i) mma::read(out.x[i], rows + (row + 8 * i) * stride);
}
inline void load_right(RightMatrix& out, const Bf16* columns, int stride) {
  const auto column = static_cast<int>(2 * (hostcuda::lane() % 4));
  for (int j = 0; j < 2; ++j) {
    for (int i = 0; i < 2; ++i) mma::read(out.x[j][i], columns + (8 * j + column + i) * stride);
  }
}
inline void multiply(float (&sums)[8], const LeftMatrix& left, const RightMatrix& right) {
  for (unsigned i = 0; i < 8; ++i) {
    for (int k = 0; k < 16; ++k) sums[i] += left.x[i / 2 % 2][k] * right.x[i / 4][i % 2][k];
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
