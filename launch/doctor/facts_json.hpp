// Facts as JSON: how ranks send them to rank 0, and what `coterie doctor --json` prints.
#pragma once

#include "launch/doctor/diagnose.hpp"

#include <nlohmann/json.hpp>

namespace coterie {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(BuildFacts, version, cuda, architectures, nccl)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(MpiFacts, built_with, loaded, launcher, tasks, rank, ranks, node, local_rank,
                                   local_ranks)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(NetworkInterface, name, address, mbit)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RdmaPort, device, port, state, rate, layer)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EnvironmentVariable, name, value)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(HostFacts, name, system, kernel, processor, cores, usable_cores, cpu_quota,
                                   instructions, memory, memory_available, memory_limit, shared_memory_free,
                                   locked_memory, open_files, gpu_direct_rdma, interfaces, rdma, environment)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Gpu, name, bus_id, uuid, capability, memory, free, pcie_generation, pcie_width,
                                   pcie_most_width, compute_mode, mig)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(GpuFacts, hardware, trouble, driver, cuda, on_host, gpus, links, peers)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(NcclFacts, version, file, trouble)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(RankFacts, build, mpi, host, gpu, nccl)

inline void to_json(nlohmann::json& json, const Finding& finding) {
  json = {{"weight", to_string(finding.weight)}, {"about", finding.about}, {"text", finding.text}};
  if (!finding.remedy.empty()) json["remedy"] = finding.remedy;
}

}  // namespace coterie
