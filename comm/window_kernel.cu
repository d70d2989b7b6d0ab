#include "comm/system_memory.hpp"
#include "comm/window_kernel.hpp"

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include <nccl_device.h>
#pragma GCC diagnostic pop

namespace coterie {
namespace {

constexpr unsigned kThreads = 256;

__global__ void clear_and_find(ncclWindow_t window, std::size_t bytes, unsigned team, std::uint64_t* addresses) {
  auto* mine = static_cast<uint4*>(ncclGetLocalPointer(window, 0));
  for (std::size_t i = threadIdx.x; i < bytes / sizeof(uint4); i += kThreads) mine[i] = uint4{0, 0, 0, 0};
  for (unsigned peer = threadIdx.x; peer < team; peer += kThreads) {
    addresses[peer] = reinterpret_cast<std::uint64_t>(ncclGetLsaPointer(window, 0, static_cast<int>(peer)));
  }
}

}  // namespace

cudaError_t open_window(ncclWindow_t window, std::size_t bytes, unsigned team, std::uint64_t* addresses,
                        cudaStream_t stream) {
  return start(clear_and_find, 1, kThreads, stream, window, bytes, team, addresses);
}

}  // namespace coterie
