// Products of a warp, and copies to shared memory that a thread need not wait for, as every GPU from sm_80 on has them;
// tests/hostcuda has the same functions in plain C++. Sources: PTX ISA 8.0, "ldmatrix", "mma.m16n8k16", "cp.async".
#pragma once

#include "kernels/cuda/gpu.hpp"

namespace coterie {

/// 16 rows x 16 inputs, and 16 inputs x 16 columns, each in the registers of a warp.
struct LeftMatrix {
  std::uint32_t x[4];
};
struct RightMatrix {
  std::uint32_t x[4];
};

/// Four matrices of 8 x 8 numbers. Lane 8 i + r gives the address of row r of matrix i, on 16 bytes.
__device__ inline void load_matrices(std::uint32_t (&out)[4], const Bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
/// From shared memory: rows of inputs, `stride` numbers apart, on 16 bytes.
__device__ inline void load_left(LeftMatrix& out, const Bf16* rows, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  load_matrices(out.x, rows + lane % 16 * stride + lane / 16 * 8);
}
/// The same from columns, each of inputs.
__device__ inline void load_right(RightMatrix& out, const Bf16* columns, int stride) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  load_matrices(out.x, columns + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8);
}

/// sums += left * right. A lane has, of rows lane / 4 + {0, 8} and columns 8 j + 2 (lane % 4) + {0, 1}, the sums
/// 4 j + {0, 1} and, of the lower row, 4 j + {2, 3}.
__device__ inline void multiply(float (&sums)[8], const LeftMatrix& left, const RightMatrix& right) {
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[4 * j]), "+f"(sums[4 * j + 1]), "+f"(sums[4 * j + 2]), "+f"(sums[4 * j + 3])
        : "r"(left.x[0]), "r"(left.x[1]), "r"(left.x[2]), "r"(left.x[3]), "r"(right.x[2 * j]), "r"(right.x[2 * j + 1]));
  }
}

/// 16 bytes, on 16; zeros where there is nothing `real` to be read.
__device__ inline void copy_async(void* shared, const void* global, bool real) {
  asm volatile(
      "{\n.reg .pred nothing;\nsetp.eq.u32 nothing, %2, 0;\ncp.async.cg.shared.global [%0], [%1], 16, nothing;\n}" ::
          "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(__cvta_generic_to_global(global)), "r"(static_cast<unsigned>(real))
      : "memory");
}
/// Ends a group of this thread's copies.
__device__ inline void copies_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Until all but so many of its groups have ended. Others see them after a barrier.
template <int Groups>
__device__ inline void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
}

}  // namespace coterie
