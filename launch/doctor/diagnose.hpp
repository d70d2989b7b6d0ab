// What the facts of all ranks mean for a job: what stops it, what slows it, and what to do.
#pragma once

#include "launch/doctor/facts.hpp"

#include <span>
#include <string>
#include <vector>

namespace coterie {

struct Finding {
  enum class Weight {
    problem,  ///< such a job can't start, or can't end
    warning,  ///< it runs, slower or at a risk
    note,     ///< good to know
  };
  Weight weight = Weight::note;
  std::string about;   ///< "MPI", "GPU", "NCCL", "network", "memory", "processor"
  std::string text;    ///< what was found, and where: "host a, rank 3: ..."
  std::string remedy;  ///< what to do; empty for a note
};

/// The job that is asked about.
struct WantedJob {
  enum class Device { cpu, cuda, any };
  Device device = Device::any;
  bool share_gpu = false;
};

/// (ranks): by rank, at least one. Problems come first.
[[nodiscard]] std::vector<Finding> diagnose(std::span<const RankFacts> ranks, const WantedJob& job);

/// (ranks): which of the GPUs that it sees each rank takes, -1 for none that no other has (with `share`: none at all).
[[nodiscard]] std::vector<int> gpus_of(std::span<const RankFacts> ranks, bool share);

[[nodiscard]] const char* to_string(Finding::Weight weight) noexcept;

}  // namespace coterie
