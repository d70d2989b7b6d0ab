// What the exchanges of a job go through.
#pragma once

#include "comm/communicator.hpp"
#include "launch/generate_options.hpp"

#include <memory>
#include <optional>
#include <string>

namespace coterie {

struct ChosenTransport {
  std::unique_ptr<Communicator> nccl;  ///< none: the exchanges go through MPI
  std::string note;                    ///< for the user; may be empty
};

/// As --transport asks for; `auto` is NCCL where every rank has a GPU of its own and NCCL is there. gpu: this rank's,
/// nothing on the CPU. Collective. Throws AgreedError where --transport nccl asks for what is not there.
[[nodiscard]] ChosenTransport choose_transport(const GenerateOptions& options, std::optional<int> gpu,
                                               MpiSession& session, Communicator& mpi);

}  // namespace coterie
