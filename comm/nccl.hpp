// Exchanges over NCCL, for ranks that compute on GPUs.
#pragma once

#include "comm/communicator.hpp"

#include <memory>
#include <string>

namespace coterie {

/// Whether what fits a slot goes from GPU to GPU by kernels that store into the peer's memory (NCCL's device API),
/// which takes no part of the host's and of NCCL's: among ranks whose GPUs reach one another's memory.
enum class LowLatency {
  off,
  on,         ///< where there is a way
  automatic,  ///< where there is, and it takes less time when both are tried
};

/// What was found out at the start; the same on all ranks.
struct LowLatencyFound {
  bool used = false;
  std::string trouble;                      ///< why there is no way; empty also where nobody asked
  double seconds = 0, seconds_without = 0;  ///< of an exchange, on the slowest rank; 0: not tried
};

struct NcclOptions {
  CommOptions comm;
  int gpu = 0;                               ///< of this rank, as CUDA counts
  bool share_gpu = false;                    ///< ranks may be on one GPU; the same on all ranks
  LowLatency low_latency = LowLatency::off;  ///< the same on all ranks
};

/// Why this process can't use NCCL: the program was built without it, or there is no library; empty: it can.
[[nodiscard]] std::string nccl_trouble();

/// Exchanges go through NCCL from GPU to GPU, gathers through MPI. Messages' bulk must be in the GPU's memory, the rest
/// in memory that it reads and writes too (MessageMemorySource). Collective: waits for the other ranks. Throws
/// CommError, with NCCL's own text.
[[nodiscard]] std::unique_ptr<Communicator> make_nccl_communicator(MpiSession& session, const NcclOptions& options,
                                                                   LowLatencyFound* found = nullptr);

}  // namespace coterie
