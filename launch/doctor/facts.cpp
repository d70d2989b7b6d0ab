#include "launch/doctor/facts.hpp"

#include "comm/mpi_version.hpp"

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

std::string nccl_version_text(int version) {
  const int thousands = version < 10000 ? 1000 : 10000;  // 2.8 and before: 2708
  return std::to_string(version / thousands) + '.' + std::to_string(version % thousands / 100) + '.' +
         std::to_string(version % 100);
}

}  // namespace coterie
