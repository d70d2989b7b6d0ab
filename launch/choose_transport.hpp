// What the exchanges of a job go through.
#pragma once

#include "comm/nccl.hpp"
#include "launch/generate_options.hpp"

#include <memory>
#include <optional>
#include <string>

namespace coterie {

struct ChosenTransport {
  std::unique_ptr<Communicator> nccl;  ///< none: the exchanges go through MPI
  std::string note;                    ///< for the user; may be empty
  bool low_latency = false;            ///< small messages go by the GPUs alone
};

/// As --transport asks for; `auto` is NCCL where every rank has a GPU of its own and NCCL is there. gpu: this rank's,
/// nothing on the CPU. Collective. Throws AgreedError where --transport nccl or --low-latency on asks for what is not
/// there.
[[nodiscard]] ChosenTransport choose_transport(const GenerateOptions& options, std::optional<int> gpu,
                                               MpiSession& session, Communicator& mpi);

}  // namespace coterie
