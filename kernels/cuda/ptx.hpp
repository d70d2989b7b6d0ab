// Hopper's asynchronous instructions, each as a function: barriers in shared memory, bulk copies that end at them, and
// products of a warpgroup (four warps, the first a multiple of four). For sm_90a; tests/hostcuda has the same functions
// in plain C++. Sources: PTX ISA 8.0, "mbarrier", "cp.async.bulk", "Asynchronous Warpgroup Level Matrix Instructions".
#pragma once

#include "kernels/cuda/gpu.hpp"

#include <cuda.h>

namespace coterie {

/// An address as instructions take it.
__device__ inline std::uint32_t shared_address(const void* shared) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
}

/// In shared memory. A phase ends when all arrivals have come, and all bytes that were announced.
class Barrier {
 public:
  /// By one thread; then fence_barriers(), and a barrier of the block.
  __device__ void init(unsigned arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(arrivals) : "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  /// Arrives, and announces so many bytes of copies in this phase.
  __device__ void arrive_expecting(unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes)
                 : "memory");
  }
  /// Until the phase of this parity has ended. The first phase is 0; 1, before it, has ended already.
  __device__ void wait(unsigned parity) {
    unsigned ended = 0;
    do {
      asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                   : "=r"(ended)
                   : "r"(shared_address(this)), "r"(parity)
                   : "memory");
    } while (ended == 0);
  }

 private:
  std::uint64_t state_;
};

/// Makes what init() wrote visible to copies.
__device__ inline void fence_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// A multiple of 16 bytes, between addresses that are.
__device__ inline void copy_bulk(void* shared, const void* global, unsigned bytes, Barrier& ended) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(&ended))
               : "memory");
}
/// The map's box whose first number is at (row, column); what is outside of the matrix becomes 0, and counts.
__device__ inline void copy_box(void* shared, const CUtensorMap& map, int column, int row, Barrier& ended) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
          shared_address(shared)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(&ended))
      : "memory");
}

/// A matrix in shared memory whose rows are 128 bytes, groups of eight of them 1,024 apart, in a swizzle of 128 bytes:
/// the 16 bytes at 16 c of row r are at 16 (c ^ r % 8). `address` is of the first column that counts.
__device__ inline std::uint64_t matrix_at(std::uint32_t address) {
  constexpr std::uint64_t group_bytes = 1024;
  return std::uint64_t{(address & 0x3ffffU) >> 4} | std::uint64_t{1} << 16 | (group_bytes >> 4) << 32 |
         std::uint64_t{1} << 62;
}

/// After the wait for all products: what is read of the sums from here on is what they became.
template <int Count>
__device__ inline void products_ended(float (&sums)[Count]) {
#pragma unroll
  for (int i = 0; i < Count; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}
/// Before the first product, and whenever sums were touched since.
template <int Count>
__device__ inline void products_fence(float (&sums)[Count]) {
  products_ended(sums);  // nor is what was written to them written later
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// Ends a group of products.
__device__ inline void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until all but so many groups have ended.
template <int Groups>
__device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Groups) : "memory");
}

/// sums (64, Columns) += left (64, 16) * right^T (Columns, 16), by the warpgroup. Thread t has of each eight columns
/// from 8 j on the sums 4 j + {0, 1, 2, 3}: row 16 (t / 32) + t % 32 / 4, columns 2 (t % 4) + {0, 1}, then eight rows
/// below.
template <int Columns>
__device__ void multiply_async(float (&sums)[Columns / 2], std::uint64_t left, std::uint64_t right);

// clang-format off
#define COTERIE_4(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3])
#define COTERIE_16(i) COTERIE_4(i), COTERIE_4(i + 4), COTERIE_4(i + 8), COTERIE_4(i + 12)
#define COTERIE_32(i) COTERIE_16(i), COTERIE_16(i + 16)

template <>
__device__ inline void multiply_async<16>(float (&sums)[8], std::uint64_t left, std::uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
    "{%0, %1, %2, %3, %4, %5, %6, %7}, %8, %9, 1, 1, 1, 0, 0;"
    : COTERIE_4(0), COTERIE_4(4) : "l"(left), "l"(right));
}

template <>
__device__ inline void multiply_async<64>(float (&sums)[32], std::uint64_t left, std::uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
    " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, 1, 1, 1, 0, 0;"
    : COTERIE_32(0) : "l"(left), "l"(right));
}

template <>
__device__ inline void multiply_async<128>(float (&sums)[64], std::uint64_t left, std::uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
    " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
    " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
    " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, 1, 1, 1, 0, 0;"
    : COTERIE_32(0), COTERIE_32(32) : "l"(left), "l"(right));
}

template <>
__device__ inline void multiply_async<192>(float (&sums)[96], std::uint64_t left, std::uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 "
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
    " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
    " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
    " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"
    " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"
    " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, %96, %97, 1, 1, 1, 0, 0;"
    : COTERIE_32(0), COTERIE_32(32), COTERIE_32(64) : "l"(left), "l"(right));
}

template <>
__device__ inline void multiply_async<256>(float (&sums)[128], std::uint64_t left, std::uint64_t right) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15,"
    " %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31,"
    " %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47,"
    " %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63,"
    " %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79,"
    " %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95,"
    " %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111,"
    " %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, %128, %129, 1, 1, 1, 0, 0;"
    : COTERIE_32(0), COTERIE_32(32), COTERIE_32(64), COTERIE_32(96) : "l"(left), "l"(right));
}
#undef COTERIE_32
#undef COTERIE_16
#undef COTERIE_4
// clang-format on

/// Two numbers as bf16, `low` in the lower half.
__device__ inline std::uint32_t packed_bf16(float low, float high) {
  std::uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

/// Stores two matrices of 8 x 8 numbers transposed. A lane has of each the numbers at (lane / 4, 2 (lane % 4) + {0,
/// 1}); lane i gives the address of 16 bytes for column i % 8 of the first (i < 8) or the second matrix (8 <= i < 16).
__device__ inline void store_transposed(void* shared, std::uint32_t first, std::uint32_t second) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(shared)),
               "r"(first), "r"(second)
               : "memory");
}

/// A barrier of `threads` threads of the block; 0 is __syncthreads'.
__device__ inline void sync_some(unsigned barrier, unsigned threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

/// Registers that each thread of the warpgroup gives away, or takes of those that others gave; all its warps call it.
template <int Count>
__device__ inline void keep_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Count));
}
template <int Count>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Count));
}

}  // namespace coterie
