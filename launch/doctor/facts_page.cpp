#include "launch/doctor/facts_page.hpp"

#include "launch/text_page.hpp"
#include "placement/number_text.hpp"

#include <algorithm>
#include <limits>
#include <map>

namespace coterie {
namespace {

constexpr std::size_t kMostRows = 64;  // of a table

std::string size_text(std::uint64_t bytes) {
  return bytes >= std::numeric_limits<std::uint64_t>::max() / 2 ? "unlimited" : bytes_text(static_cast<double>(bytes));
}

std::string joined(const std::vector<std::string>& words, const char* separator = ", ") {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : separator) + word;
  return text;
}

std::string program_text(const BuildFacts& build) {
  if (build.cuda.empty()) return "coterie " + build.version + ", built without CUDA";
  std::vector<std::string> architectures;
  for (const int a : build.architectures) architectures.push_back("sm_" + std::to_string(a));
  return "coterie " + build.version + ", built with CUDA " + build.cuda + " for " + joined(architectures);
}

std::string mpi_text(const MpiFacts& mpi) {
  std::string text = mpi.loaded + " (built with " + mpi.built_with + "); ";
  if (mpi.launcher.empty()) return text + "one process, not started by mpirun or srun";
  return text + std::to_string(mpi.ranks) + " rank(s), started by " + mpi.launcher;
}

void host_facts(TextPage& page, const RankFacts& facts) {
  const HostFacts& host = facts.host;
  page.fact("host", joined({host.name, host.system, host.kernel}));
  std::string cores = std::to_string(host.usable_cores) + " of " + std::to_string(host.cores) + " cores";
  if (host.cpu_quota > 0) cores += ", as much time as of " + fixed(host.cpu_quota, 1);
  page.fact("processor", joined({host.processor, cores, host.instructions.empty() ? "no AVX2" : host.instructions}));
  std::string memory = size_text(host.memory) + ", " + size_text(host.memory_available) + " available";
  if (host.memory_limit > 0) memory += ", limit " + size_text(host.memory_limit);
  page.fact("memory", memory + "; /dev/shm " + size_text(host.shared_memory_free) + " free");
  page.fact("limits", "locked memory " + size_text(host.locked_memory) + ", open files " +
                          (host.open_files > 1U << 30 ? "unlimited" : std::to_string(host.open_files)));
  std::vector<std::string> network;
  for (const NetworkInterface& i : host.interfaces) {
    network.push_back(i.name + " " + i.address + (i.mbit > 0 ? " (" + std::to_string(i.mbit) + " Mbit/s)" : ""));
  }
  for (const RdmaPort& port : host.rdma) {
    network.push_back(port.device + " port " + std::to_string(port.port) + " " + port.layer + " " + port.rate + " " +
                      port.state);
  }
  page.fact("network", network.empty() ? "none but the loopback" : joined(network, "; "));
  std::vector<std::string> environment;
  for (const EnvironmentVariable& e : host.environment) environment.push_back(e.name + "=" + e.value);
  if (!environment.empty()) page.fact("environment", joined(environment, " "));
}

void gpu_facts(TextPage& page, const RankFacts& facts) {
  const GpuFacts& gpu = facts.gpu;
  if (gpu.gpus.empty()) {
    page.fact("GPUs", gpu.trouble.empty() ? "none that this process may use" : "none (" + gpu.trouble + ")");
  } else {
    std::string text = std::to_string(gpu.gpus.size());
    if (gpu.on_host > static_cast<int>(gpu.gpus.size())) text += " of " + std::to_string(gpu.on_host) + " on the host";
    if (!gpu.driver.empty()) text += ", driver " + gpu.driver;
    page.fact("GPUs", text + ", up to CUDA " + cuda_version_text(gpu.cuda));
  }
  const NcclFacts& nccl = facts.nccl;
  page.fact("NCCL",
            nccl.version == 0 ? "none (" + nccl.trouble + ")" : nccl_version_text(nccl.version) + ", " + nccl.file);
  if (has_several_gpus(facts) && nccl.version != 0) {
    const std::string why = low_latency_trouble(facts);
    page.fact("low latency", why.empty() ? "the GPUs may exchange small messages by themselves" : "no: " + why);
  }
  if (gpu.gpus.empty()) return;
  std::vector<std::vector<std::string>> rows;
  for (std::size_t i = 0; i < gpu.gpus.size(); ++i) {
    const Gpu& g = gpu.gpus[i];
    const std::string pcie =
        g.pcie_width == 0 ? "" : std::to_string(g.pcie_generation) + " x" + std::to_string(g.pcie_width);
    rows.push_back({std::to_string(i), g.name, fixed(g.capability / 10.0, 1), size_text(g.memory),
                    g.free == 0 ? "" : size_text(g.free), pcie, g.bus_id});
  }
  page.table({"GPU", "name", "capability", "memory", "free", "PCIe", "bus"}, rows);
  if (gpu.gpus.size() < 2 || gpu.links.empty()) return;
  std::vector<std::string> head{"link"};
  std::vector<std::vector<std::string>> links;
  for (std::size_t a = 0; a < gpu.links.size(); ++a) {
    head.push_back(std::to_string(a));
    std::vector<std::string>& row = links.emplace_back(std::vector<std::string>{std::to_string(a)});
    for (std::size_t b = 0; b < gpu.links[a].size(); ++b) {
      const bool apart = a != b && !gpu.peers.empty() && !gpu.peers[a][b];
      row.push_back(a == b ? "-" : (gpu.links[a][b].empty() ? "?" : gpu.links[a][b]) + (apart ? "!" : ""));
    }
  }
  page.table(head, links);
  page.note(
      "NV18: 18 NVLinks; PIX, PXB: PCIe bridges; PHB, NODE: a processor's PCIe; SYS: between processors; "
      "!: neither reads the other's memory.");
}

void rank_table(TextPage& page, std::span<const RankFacts> ranks) {
  std::vector<std::vector<std::string>> rows;
  const std::vector<int> gpus = gpus_of(ranks, true);
  for (const RankFacts& rank : ranks.first(std::min(ranks.size(), kMostRows))) {
    const int index = gpus[rows.size()];
    const std::string gpu = index < 0 ? "-" : std::to_string(index) + " " + rank.gpu.gpus[index].bus_id;
    rows.push_back({std::to_string(rank.mpi.rank), rank.host.name, std::to_string(rank.mpi.local_rank),
                    std::to_string(rank.host.usable_cores), size_text(rank.host.memory_available), gpu,
                    rank.gpu.driver.empty() ? "-" : rank.gpu.driver,
                    rank.nccl.version == 0 ? "-" : nccl_version_text(rank.nccl.version)});
  }
  page.table({"rank", "host", "local rank", "cores", "memory", "GPU", "driver", "NCCL"}, rows);
  if (ranks.size() > kMostRows) page.note(std::to_string(ranks.size() - kMostRows) + " more ranks; --json has all.");
}

}  // namespace

std::string facts_page(std::span<const RankFacts> ranks, std::span<const Finding> findings) {
  TextPage page;
  page.fact("program", program_text(ranks.front().build));
  page.fact("MPI", mpi_text(ranks.front().mpi));
  host_facts(page, ranks.front());
  gpu_facts(page, ranks.front());
  if (ranks.size() > 1) rank_table(page, ranks);
  std::string text = page.text();
  for (const Finding& finding : findings) {
    TextPage one;
    one.note(std::string(to_string(finding.weight)) + ", " + finding.about + ": " + finding.text +
             (finding.remedy.empty() ? "" : ". What to do: " + finding.remedy) + '.');
    text += one.text();
  }
  const auto problems = std::ranges::count(findings, Finding::Weight::problem, &Finding::weight);
  const auto warnings = std::ranges::count(findings, Finding::Weight::warning, &Finding::weight);
  const auto counted = [](auto count, const std::string& what) {
    return (count == 0 ? "no" : std::to_string(count)) + " " + what + (count == 1 ? "" : "s");
  };
  return text + '\n' + counted(problems, "problem") + " that would stop a job, " + counted(warnings, "warning") + '\n';
}

}  // namespace coterie
