// Exchanges over NCCL, for ranks that compute on GPUs.
#pragma once

#include "comm/communicator.hpp"

#include <memory>
#include <string>

namespace coterie {

struct NcclOptions {
  CommOptions comm;
  int gpu = 0;             ///< of this rank, as CUDA counts
  bool share_gpu = false;  ///< ranks may be on one GPU; the same on all ranks
};

/// Why this process can't use NCCL: the program was built without it, or there is no library; empty: it can.
[[nodiscard]] std::string nccl_trouble();

/// Exchanges go through NCCL from GPU to GPU, gathers through MPI. Messages must be in memory that the GPU reads and
/// writes (MessageMemoryFrom). Collective: waits for the other ranks. Throws CommError, with NCCL's own text.
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_communicator(MpiSession& session, const NcclOptions& options);

}  // namespace coterie
