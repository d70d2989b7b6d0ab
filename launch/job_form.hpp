// The form of context coherence that a job of `coterie generate` takes, and the KV memory that goes with it.
#pragma once

#include "comm/communicator.hpp"
#include "kernels/device.hpp"
#include "launch/generate_options.hpp"
#include "placement/plan.hpp"
#include "runtime/checkpoint/checkpoint.hpp"
#include "runtime/cost/form_choice.hpp"
#include "runtime/experts/spill.hpp"
#include "runtime/requests/request_parser.hpp"

#include <nlohmann/json_fwd.hpp>

#include <optional>
#include <string>

namespace coterie {

struct JobForm {
  Coherence coherence = Coherence::rank;
  int micro_batches = 1;
  bool replicate = false;
  std::int64_t kv_blocks = 0;        ///< of a rank
  std::int64_t gpu_bytes = 0;        ///< that this rank takes of its GPU at the start; 0: it has none
  std::int64_t pinned_bytes = 0;     ///< the same, of memory that the GPU shares with the host
  std::optional<FormChoice> choice;  ///< where something was left to the program
  std::optional<Machine> machine;    ///< by which it was chosen, and spills are
  std::optional<SpillOptions> spill;
  std::string notes;  ///< lines for the user
};

/// What a job is before anything big is loaded; all of it outlives the call.
struct JobFacts {
  const ModelSpec& spec;
  const Checkpoint& checkpoint;
  const Plan& plan;
  Topology topology;
  const RequestRules* rules = nullptr;  ///< rank 0's, to look at the first requests
};

/// Decides what the options leave open, by the machine file or by a calibration of a second or less. Collective; the
/// same answer on all ranks but for a GPU's bytes. Throws AgreedError when the first batch's keys and values don't fit
/// a coherence domain that was asked for.
[[nodiscard]] JobForm job_form(const GenerateOptions& options, const JobFacts& facts, Device& device,
                               Communicator& comm);

[[nodiscard]] Topology topology_of(const Communicator& comm);

/// For the metrics' "job".
[[nodiscard]] nlohmann::json form_json(const JobForm& form);

}  // namespace coterie
