// Memory that several GPUs and the host read and write, and how a kernel that does is started. tests/hostcuda has the
// same functions for the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace coterie {

/// What was written before a number was released, by this thread or by those it waited for at a barrier, is seen by who
/// acquires that number, and by those who wait for them.
__device__ inline void release_number(std::uint64_t* at, std::uint64_t number) {
  asm volatile("st.release.sys.u64 [%0], %1;" ::"l"(at), "l"(number) : "memory");
}
__device__ inline std::uint64_t acquire_number(const std::uint64_t* at) {
  std::uint64_t number = 0;
  asm volatile("ld.acquire.sys.u64 %0, [%1];" : "=l"(number) : "l"(at) : "memory");
  return number;
}

/// Between two looks at what another GPU writes.
__device__ inline void look_away() {}

template <class... Parameters, class... Arguments>
[[nodiscard]] cudaError_t start(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, cudaStream_t stream,
                                Arguments... arguments) {
  kernel<<<blocks, threads, 0, stream>>>(static_cast<Parameters>(arguments)...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaErrorNotReady ? cudaSuccess : error;  // of a stream that was asked before
}

}  // namespace coterie
