// What device code and the host's code around it share: errors, launches, numbers of either type.
#pragma once

#include "kernels/cuda/cuda_queue.hpp"
#include "kernels/tensor.hpp"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace coterie {

using Bf16 = __nv_bfloat16;

/// Throws std::runtime_error with what was tried and what CUDA says. That a stream isn't done is no error, and may be
/// the last one long after somebody asked.
inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess || error == cudaErrorNotReady) return;
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(error));
}

/// Starts a kernel; does nothing for an empty grid.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, CudaQueue& queue,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  queue.submit(KernelWork<Parameters...>(kernel, grid, block, shared_bytes, static_cast<Parameters>(arguments)...));
  check(cudaGetLastError(), "a kernel's launch");
}
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes, cudaStream_t stream,
            Arguments... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  KernelWork<Parameters...>(kernel, grid, block, shared_bytes, static_cast<Parameters>(arguments)...).start(stream);
  check(cudaGetLastError(), "a kernel's launch");
}

/// The memory that a launch asked for, on 128 bytes.
__device__ inline float* dynamic_shared_floats() {
#ifdef COTERIE_HOSTCUDA
  return reinterpret_cast<float*>(hostcuda::dynamic_shared());
#else
  extern __shared__ __align__(128) float memory[];
  return memory;
#endif
}

__device__ inline float to_float(float value) {
  return value;
}
__device__ inline float to_float(Bf16 value) {
  return __bfloat162float(value);
}
template <class T>
__device__ inline T from_float(float value) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return __float2bfloat16(value);
  } else {
    return value;
  }
}

/// A matrix as kernels see it.
template <class T>
struct Matrix {
  T* data;
  std::int64_t stride;
  [[nodiscard]] __device__ T* row(std::int64_t r) const { return data + r * stride; }
  bool operator==(const Matrix&) const = default;
};
template <class T>
[[nodiscard]] Matrix<T> as_matrix(const Tensor& tensor) {
  return {reinterpret_cast<T*>(tensor.data), tensor.stride};
}

/// Numbers that are read or written at once.
template <class T, int Width>
struct alignas(sizeof(T) * Width < 16 ? sizeof(T) * Width : 16) Neighbours {
  T x[Width];
};
template <int Width, class T>
[[nodiscard]] __device__ Neighbours<T, Width> neighbours(const T* first) {
  return *reinterpret_cast<const Neighbours<T, Width>*>(first);
}
[[nodiscard]] __device__ inline bool is_on_16(const void* memory) {
  return reinterpret_cast<std::uintptr_t>(memory) % 16 == 0;
}

/// call(T{}) with T float or Bf16.
template <class Call>
void with_type(DType type, const Call& call) {
  if (type == DType::f32) {
    call(float{});
  } else {
    call(Bf16{});
  }
}

/// The sum, or the largest, of a warp's numbers, in an order that doesn't change; every lane gets it.
__device__ inline float warp_sum(float value) {
  for (unsigned half = 16; half > 0; half /= 2) value += __shfl_xor_sync(0xffffffffU, value, half);
  return value;
}
__device__ inline float warp_max(float value) {
  for (unsigned half = 16; half > 0; half /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffU, value, half));
  return value;
}

/// The sum over a block of so many threads, to each of them, in an order that doesn't change.
template <unsigned Threads>
__device__ static float block_sum(float value) {
  __shared__ float sums[Threads / 32];
  value = warp_sum(value);
  __syncthreads();  // the last sum is read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned warp = 0; warp < Threads / 32; ++warp) sum += sums[warp];
  return sum;
}

/// The sum over the threads before this one in a block of so many; `all`: becomes the sum over all of them.
template <unsigned Threads>
__device__ static int block_sum_before(int value, int& all) {
  __shared__ int sums[Threads / 32];
  const unsigned lane = threadIdx.x % 32;
  int before = value;
  for (unsigned step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(0xffffffffU, before, step);
    if (lane >= step) before += other;
  }
  __syncthreads();  // the last sums are read
  if (lane == 31) sums[threadIdx.x / 32] = before;
  __syncthreads();
  before -= value;
  all = 0;
  for (unsigned warp = 0; warp < Threads / 32; ++warp) {
    if (warp < threadIdx.x / 32) before += sums[warp];
    all += sums[warp];
  }
  return before;
}

}  // namespace coterie
