// What a GPU alone finds out about a symmetric window of NCCL's.
#pragma once

#include <cuda_runtime.h>
#include <nccl.h>

#include <cstddef>
#include <cstdint>

namespace coterie {

/// Clears `bytes` (a multiple of 16) of this rank's memory in the window, and says where each of the `team` ranks whose
/// memory this GPU reaches has it. `addresses`: (team), in memory that the host reads. Enqueues.
[[nodiscard]] cudaError_t open_window(ncclWindow_t window, std::size_t bytes, unsigned team, std::uint64_t* addresses,
                                      cudaStream_t stream);

}  // namespace coterie
