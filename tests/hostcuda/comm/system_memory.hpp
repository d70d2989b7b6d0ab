// Stands in for the header of the same name (comm/system_memory.hpp), which says what these do. GPUs are processes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace coterie {

inline void release_number(std::uint64_t* at, std::uint64_t number) {
  __atomic_store_n(at, number, __ATOMIC_RELEASE);
}
inline std::uint64_t acquire_number(const std::uint64_t* at) {
  return __atomic_load_n(at, __ATOMIC_ACQUIRE);
}
inline void look_away() {
  hostcuda::poll_outside();
}

template <class... Parameters, class... Arguments>
[[nodiscard]] cudaError_t start(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, cudaStream_t stream,
                                Arguments... arguments) {
  hostcuda::launch(
      blocks, threads, 0, stream, [=] { kernel(static_cast<Parameters>(arguments)...); },
      reinterpret_cast<const void*>(kernel));
  const cudaError_t error = cudaGetLastError();
  return error == cudaErrorNotReady ? cudaSuccess : error;
}

}  // namespace coterie
