#include "launch/doctor/facts.hpp"

#include "comm/mpi_version.hpp"

#include <algorithm>
#include <cstdlib>
#include <sstream>

namespace coterie {
namespace {

int number_in(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::atoi(text);
}

bool is_set(const char* variable) {
  return std::getenv(variable) != nullptr;
}

}  // namespace

BuildFacts find_build() {
  BuildFacts build{COTERIE_VERSION, COTERIE_BUILT_CUDA, {}, COTERIE_BUILT_NCCL};
  std::istringstream in(COTERIE_BUILT_ARCHITECTURES);  // "80 90 100"; an entry may go on with "-real"
  for (std::string word; in >> word;) {
    if (const int number = std::atoi(word.c_str()); number > 0) build.architectures.push_back(number);
  }
  return build;
}

MpiFacts find_mpi() {
  const MpiVersion version = mpi_version();
  MpiFacts mpi;
  mpi.built_with = version.built_with;
  mpi.loaded = version.loaded;
  if (is_set("OMPI_COMM_WORLD_SIZE")) {
    mpi.launcher = "Open MPI's mpirun";
    mpi.tasks = number_in("OMPI_COMM_WORLD_SIZE");
  } else if (is_set("SLURM_STEP_ID") && is_set("SLURM_PROCID")) {
    mpi.launcher = "srun";
    mpi.tasks = number_in("SLURM_STEP_NUM_TASKS");
  } else if (is_set("PMI_SIZE")) {
    mpi.launcher = "a launcher that speaks PMI (MPICH's or Intel MPI's mpirun)";
    mpi.tasks = number_in("PMI_SIZE");
  } else if (is_set("PMIX_RANK")) {
    mpi.launcher = "a launcher that speaks PMIx";
  }
  return mpi;
}

RankFacts find_facts() {
  return {find_build(), find_mpi(), find_host(), find_gpus(), find_nccl()};
}

std::string cuda_version_text(int version) {
  return std::to_string(version / 1000) + '.' + std::to_string(version % 1000 / 10);
}

std::string value_of(const HostFacts& host, const std::string& name) {
  const auto found = std::ranges::find(host.environment, name, &EnvironmentVariable::name);
  return found == host.environment.end() ? "" : found->value;
}

bool has_several_gpus(const RankFacts& facts) noexcept {
  return facts.gpu.gpus.size() > 1 || (facts.gpu.gpus.size() == 1 && facts.mpi.local_ranks > 1);
}

std::string low_latency_trouble(const RankFacts& facts) {
  constexpr int oldest = 22800;
  const int version = facts.nccl.version;
  const std::string loaded = nccl_version_text(version);
  if (!has_several_gpus(facts) || version == 0 || facts.build.nccl.empty()) return "";
  if (version < oldest) return "it takes NCCL 2.28 or later, and " + loaded + " is loaded";
  if (!facts.build.nccl.starts_with(loaded.substr(0, loaded.rfind('.') + 1))) {
    return "built with NCCL " + facts.build.nccl + ", and " + loaded +
           " is loaded; expected the same first two numbers";
  }
  const std::size_t gpus = facts.gpu.gpus.size();
  const auto ranks = static_cast<std::size_t>(facts.mpi.local_ranks);
  if (gpus > 1 && ranks > gpus) return "ranks share GPUs";  // with one, it may be this rank's own
  const std::size_t used = ranks > 1 ? std::min(ranks, gpus) : gpus;
  for (std::size_t a = 0; a < used && !facts.gpu.peers.empty(); ++a) {
    for (std::size_t b = 0; b < used; ++b) {
      if (a != b && !facts.gpu.peers[a][b]) return "some GPUs can't read each other's memory";
    }
  }
  const std::string off = value_of(facts.host, "NCCL_P2P_DISABLE");
  if (!off.empty() && off != "0") return "NCCL_P2P_DISABLE=" + off;
  return value_of(facts.host, "NCCL_CUMEM_ENABLE") == "0" ? "NCCL_CUMEM_ENABLE=0" : "";
}

std::string nccl_version_text(int version) {
  const int thousands = version < 10000 ? 1000 : 10000;  // 2.8 and before: 2708
  return std::to_string(version / thousands) + '.' + std::to_string(version % thousands / 100) + '.' +
         std::to_string(version % 100);
}

}  // namespace coterie
