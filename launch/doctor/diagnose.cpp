#include "launch/doctor/diagnose.hpp"

#include "launch/choose_device.hpp"
#include "placement/number_text.hpp"

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <sstream>

namespace coterie {
namespace {

using Weight = Finding::Weight;

constexpr std::uint64_t kSharedMemoryOfARank = 64U << 20;  // bytes that MPI and NCCL take of /dev/shm
constexpr std::uint64_t kLockedMemory = 1U << 30;          // bytes that RDMA buffers take easily
constexpr std::uint64_t kFilesOfARank = 16;                // sockets and the like to each other rank
constexpr std::uint64_t kFiles = 256;                      // for everything else
constexpr double kMuchInUse = 0.5;                         // of a GPU's memory

int major_of(const std::string& version) {
  const std::size_t digit = version.find_first_of("0123456789");
  return digit == std::string::npos ? 0 : std::atoi(version.c_str() + digit);
}

class Diagnosis {
 public:
  Diagnosis(std::span<const RankFacts> ranks, const WantedJob& job) : ranks_(ranks), job_(job) {
    for (const RankFacts& rank : ranks_) nodes_[rank.mpi.node].push_back(&rank);
  }

  std::vector<Finding> findings() {
    start();
    processors();
    memory();
    gpus();
    nccl();
    network();
    std::ranges::stable_sort(findings_, {}, &Finding::weight);
    return std::move(findings_);
  }

 private:
  using OnNode = std::vector<const RankFacts*>;

  void add(Weight weight, const char* about, const std::string& text, const std::string& remedy = "") {
    findings_.push_back({weight, about, text, remedy});
  }
  [[nodiscard]] std::string at(const RankFacts& rank) const {
    return ranks_.size() == 1 ? "" : "host " + rank.host.name + ": ";
  }
  [[nodiscard]] std::string at_rank(const RankFacts& rank) const {
    return ranks_.size() == 1 ? "" : "rank " + std::to_string(rank.mpi.rank) + " on host " + rank.host.name + ": ";
  }
  [[nodiscard]] bool wants_gpus() const { return job_.device != WantedJob::Device::cpu; }
  /// Of what keeps GPUs from being used: with `auto` the job runs on the CPU.
  [[nodiscard]] Weight without_gpu() const {
    return job_.device == WantedJob::Device::cuda ? Weight::problem : Weight::warning;
  }
  /// The first rank of each node.
  template <class Do>
  void each_node(const Do& body) const {
    for (const auto& [node, on_node] : nodes_) body(*on_node.front());
  }
  /// Says once which ranks have which value of a thing that must not differ.
  template <class Value>
  void same(const char* about, const char* what, const Value& value, const char* remedy) {
    std::map<std::string, int> first;
    for (const RankFacts& rank : ranks_) first.emplace(value(rank), rank.mpi.rank);
    if (first.size() < 2) return;
    std::string text = std::string(what) + " differ: ";
    const char* separator = "";
    for (const auto& [found, rank] : first) {
      text += separator + (found.empty() ? "none" : found) + " on rank " + std::to_string(rank);
      separator = ", ";
    }
    add(Weight::problem, about, text, remedy);
  }

  void start();
  void processors();
  void memory();
  void gpus();
  void gpus_on(const OnNode& on_node);
  void links_of(const OnNode& on_node);
  void gpu_for_each_rank();
  void nccl();
  void network();

  std::span<const RankFacts> ranks_;
  WantedJob job_;
  std::map<int, OnNode> nodes_;
  std::vector<Finding> findings_;
};

void Diagnosis::start() {
  const RankFacts& first = ranks_.front();
  const MpiFacts& mpi = first.mpi;
  if (mpi.tasks > 0 && mpi.tasks != mpi.ranks) {
    const bool srun = mpi.launcher == "srun";
    add(Weight::problem, "MPI",
        mpi.launcher + " started " + std::to_string(mpi.tasks) + " processes, and MPI sees " +
            std::to_string(mpi.ranks) + " rank(s): they don't find one another",
        srun
            ? "start with srun --mpi=pmix (srun --mpi=list tells what there is), or with mpirun inside sbatch or salloc"
            : "start with the mpirun of the MPI that the program was built with: " + mpi.built_with);
  }
  if (major_of(mpi.built_with) != major_of(mpi.loaded)) {
    add(Weight::problem, "MPI", "built with " + mpi.built_with + ", but " + mpi.loaded + " is loaded",
        "load the module, or set LD_LIBRARY_PATH, of the MPI that it was built with, or build it again");
  }
  same(
      "MPI", "versions of this program", [](const RankFacts& r) { return r.build.version + " " + r.build.cuda; },
      "start the same program on every host");
  same(
      "MPI", "MPI libraries", [](const RankFacts& r) { return r.mpi.loaded; }, "load the same MPI on every host");
  std::set<std::size_t> sizes;
  for (const auto& [node, on_node] : nodes_) sizes.insert(on_node.size());
  if (sizes.size() > 1) {
    add(Weight::note, "MPI",
        "hosts have from " + std::to_string(*sizes.begin()) + " to " + std::to_string(*sizes.rbegin()) +
            " ranks; a plan's topology must say the same");
  }
}

void Diagnosis::processors() {
  for (const auto& [node, on_node] : nodes_) {
    const RankFacts& first = *on_node.front();
    // Each rank may be bound to some of the cores; together they have no more than the host.
    int usable = 0;
    for (const RankFacts* rank : on_node) usable = std::max(usable, rank->host.usable_cores);
    const auto ranks = static_cast<int>(on_node.size());
    const bool bound = usable < first.host.cores;
    if (!bound && ranks > usable) {
      const bool yields = value_of(first.host, "OMPI_MCA_mpi_yield_when_idle") == "1";
      add(Weight::warning, "processor",
          at(first) + std::to_string(ranks) + " ranks on " + std::to_string(usable) +
              " cores: those that wait take time from those that compute",
          std::string("start fewer ranks on the host") +
              (yields ? "" : ", or at least set OMPI_MCA_mpi_yield_when_idle=1"));
    }
    if (first.host.cpu_quota > 0 && first.host.cpu_quota < ranks) {
      add(Weight::warning, "processor",
          at(first) + "its control group may use " + fixed(first.host.cpu_quota, 1) + " cores, with " +
              std::to_string(ranks) + " rank(s) on it",
          "give the container or the job more cores");
    }
  }
}

void Diagnosis::memory() {
  for (const auto& [node, on_node] : nodes_) {
    const HostFacts& host = on_node.front()->host;
    const std::uint64_t needed = kSharedMemoryOfARank * on_node.size();
    if (on_node.size() > 1 && host.shared_memory_free < needed) {
      add(Weight::warning, "memory",
          at(*on_node.front()) + "/dev/shm has " + bytes_text(static_cast<double>(host.shared_memory_free)) +
              " free for " + std::to_string(on_node.size()) + " ranks; MPI and NCCL keep their buffers there",
          "give it " + bytes_text(static_cast<double>(needed)) +
              " or more (docker run --shm-size, or mount -o remount,size= /dev/shm)");
    }
    if (host.open_files < kFiles + kFilesOfARank * ranks_.size()) {
      add(Weight::warning, "memory",
          at(*on_node.front()) + "a process may open " + std::to_string(host.open_files) + " files; " +
              std::to_string(ranks_.size()) + " ranks need about " +
              std::to_string(kFiles + kFilesOfARank * ranks_.size()),
          "ulimit -n 65536 (or LimitNOFILE of the service that starts the ranks)");
    }
    if (!host.rdma.empty() && host.locked_memory < kLockedMemory) {
      add(Weight::warning, "memory",
          at(*on_node.front()) + "a process may lock " + bytes_text(static_cast<double>(host.locked_memory)) +
              " of memory; RDMA (" + host.rdma.front().device + ") needs more",
          "ulimit -l unlimited (for Slurm: LimitMEMLOCK=infinity of slurmd; for Docker: --ulimit memlock=-1)");
    }
    if (host.memory_limit > 0 && host.memory_limit < host.memory) {
      add(Weight::note, "memory",
          at(*on_node.front()) + "its control group may use " + bytes_text(static_cast<double>(host.memory_limit)) +
              " of " + bytes_text(static_cast<double>(host.memory)));
    }
  }
}

void Diagnosis::gpus() {
  const BuildFacts& build = ranks_.front().build;
  if (!wants_gpus()) return;
  const bool hardware = std::ranges::any_of(ranks_, [](const RankFacts& r) { return r.gpu.hardware; });
  if (build.cuda.empty()) {
    if (hardware || job_.device == WantedJob::Device::cuda) {
      add(without_gpu(), "GPU", "this program was built without CUDA",
          "build it where a CUDA toolkit (12.4 or later) is, with -DCOTERIE_CUDA=ON");
    }
    return;
  }
  for (const auto& [node, on_node] : nodes_) gpus_on(on_node);
  gpu_for_each_rank();
  std::set<std::string> kinds;
  std::set<std::size_t> counts;
  for (const auto& [node, on_node] : nodes_) {
    counts.insert(on_node.front()->gpu.gpus.size());
    for (const Gpu& gpu : on_node.front()->gpu.gpus) kinds.insert(gpu.name);
  }
  if (kinds.size() > 1) {
    std::string text;
    for (const std::string& kind : kinds) text += (text.empty() ? "" : ", ") + kind;
    add(Weight::warning, "GPU", "GPUs of several kinds: " + text + "; every layer waits for the slowest",
        "use hosts, or by CUDA_VISIBLE_DEVICES GPUs, of one kind");
  }
  if (counts.size() > 1 && *counts.begin() == 0) {
    add(Weight::problem, "GPU", "some hosts have GPUs and some have none", "use hosts of one kind, or --device cpu");
  }
}

void Diagnosis::gpus_on(const OnNode& on_node) {
  const RankFacts& first = *on_node.front();
  const GpuFacts& gpu = first.gpu;
  if (gpu.gpus.empty()) {
    if (!gpu.hardware && job_.device == WantedJob::Device::cuda) {
      add(Weight::problem, "GPU", at(first) + "no NVIDIA GPU, or no driver: " + gpu.trouble,
          "use a host with GPUs, or --device cpu; in a container: docker run --gpus all, or apptainer --nv");
    } else if (gpu.hardware) {
      const bool hidden = gpu.trouble.empty();
      add(without_gpu(), "GPU",
          at(first) + "there are GPUs, but none can be used: " +
              (hidden ? "CUDA_VISIBLE_DEVICES or the batch system hides them" : gpu.trouble),
          hidden ? "ask the batch system for GPUs (sbatch --gpus-per-node), or unset CUDA_VISIBLE_DEVICES"
                 : "install the driver's libraries (in a container: docker run --gpus all, or apptainer --nv); "
                   "nvidia-smi must work first");
    }
    return;
  }
  const int built = major_of(first.build.cuda);
  if (gpu.cuda / 1000 < built) {
    add(without_gpu(), "GPU",
        at(first) + "the driver" + (gpu.driver.empty() ? "" : " " + gpu.driver) + " goes up to CUDA " +
            cuda_version_text(gpu.cuda) + ", and this program was built with " + first.build.cuda,
        "update the driver, or build with a toolkit of CUDA " + std::to_string(gpu.cuda / 1000));
  }
  const auto& architectures = first.build.architectures;
  for (std::size_t i = 0; i < gpu.gpus.size(); ++i) {
    const Gpu& one = gpu.gpus[i];
    const std::string which = at(first) + "GPU " + std::to_string(i) + " (" + one.name + ")";
    const bool native =
        std::ranges::any_of(architectures, [&](int a) { return a / 10 == one.capability / 10 && a <= one.capability; });
    if (!architectures.empty() && one.capability < std::ranges::min(architectures)) {
      add(without_gpu(), "GPU",
          which + " has compute capability " + fixed(one.capability / 10.0, 1) + ", below the lowest built for, " +
              fixed(std::ranges::min(architectures) / 10.0, 1),
          "use newer GPUs, or build with -DCMAKE_CUDA_ARCHITECTURES=" + std::to_string(one.capability));
    } else if (!architectures.empty() && !native) {
      add(Weight::note, "GPU",
          which + " runs code that the driver translates at its first start: build with -DCMAKE_CUDA_ARCHITECTURES=" +
              std::to_string(one.capability) + " to spare that");
    }
    if (one.compute_mode == "prohibited") {
      add(without_gpu(), "GPU", which + " is in compute mode prohibited", "nvidia-smi -c DEFAULT, as root");
    }
    if (one.compute_mode == "exclusive" && job_.share_gpu && on_node.size() > gpu.gpus.size()) {
      add(without_gpu(), "GPU", which + " is for one process, and ranks would share it",
          "nvidia-smi -c DEFAULT, as root");
    }
    if (one.free > 0 && static_cast<double>(one.free) < kMuchInUse * static_cast<double>(one.memory)) {
      add(Weight::warning, "GPU",
          which + " has " + bytes_text(static_cast<double>(one.free)) + " free of " +
              bytes_text(static_cast<double>(one.memory)) + ": others use it",
          "end what uses it (nvidia-smi lists it), or choose others with CUDA_VISIBLE_DEVICES");
    }
    if (one.pcie_width > 0 && one.pcie_width < one.pcie_most_width) {
      add(Weight::warning, "GPU",
          which + " is on a PCIe link of " + std::to_string(one.pcie_width) + " lanes of " +
              std::to_string(one.pcie_most_width),
          "check the slot, the riser and the BIOS");
    }
    if (one.mig) {
      add(Weight::warning, "GPU", which + " is cut into MIG instances, between which there is no direct path",
          "nvidia-smi -mig 0, as root, where the whole GPU is meant");
    }
  }
  links_of(on_node);
}

void Diagnosis::gpu_for_each_rank() {
  const std::vector<int> gpus = gpus_of(ranks_, job_.share_gpu);
  const auto without = std::ranges::find(gpus, -1);
  if (without == gpus.end()) return;
  const RankFacts& rank = ranks_[static_cast<std::size_t>(without - gpus.begin())];
  if (rank.gpu.gpus.empty()) return;  // told of its host
  add(without_gpu(), "GPU",
      at(rank) + std::to_string(rank.mpi.local_ranks) + " ranks, and rank " + std::to_string(rank.mpi.rank) +
          " sees no GPU that no other has, of " + std::to_string(rank.gpu.gpus.size()),
      "start no more ranks on a host than it has GPUs, or test with --share-gpu");
}

void Diagnosis::links_of(const OnNode& on_node) {
  const RankFacts& first = *on_node.front();
  const std::size_t used = std::min(on_node.size(), first.gpu.gpus.size());
  std::set<std::string> links;
  bool apart = false;
  for (std::size_t a = 0; a < used; ++a) {
    for (std::size_t b = 0; b < used; ++b) {
      if (a == b) continue;
      if (!first.gpu.links.empty()) links.insert(first.gpu.links[a][b]);
      apart = apart || (!first.gpu.peers.empty() && !first.gpu.peers[a][b]);
    }
  }
  if (apart) {
    add(Weight::warning, "GPU",
        at(first) + "some GPUs can't read each other's memory: what they exchange goes by the host's",
        "check that IOMMU and ACS are off, and that GPUs are of one kind");
  }
  const auto by_nvlink = std::ranges::count_if(links, [](const std::string& l) { return l.starts_with("NV"); });
  if (by_nvlink > 0 && links.size() > 1) {
    std::string text;
    for (const std::string& link : links) text += (text.empty() ? "" : ", ") + link;
    add(Weight::note, "GPU", at(first) + "links between its GPUs are uneven (" + text + ")");
  }
}

void Diagnosis::nccl() {
  const bool with_gpus = std::ranges::all_of(ranks_, [](const RankFacts& r) { return !r.gpu.gpus.empty(); });
  if (!wants_gpus() || !with_gpus || ranks_.front().build.cuda.empty()) return;
  same(
      "NCCL", "NCCL libraries",
      [](const RankFacts& r) { return r.nccl.version == 0 ? "" : nccl_version_text(r.nccl.version); },
      "load the same NCCL on every host");
  each_node([&](const RankFacts& rank) {
    for (const char* name : {"NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"}) {
      const std::string value = value_of(rank.host, name);
      if (value.empty() || value == "0" || job_.share_gpu) continue;
      add(Weight::warning, "NCCL", at(rank) + name + "=" + value + " makes NCCL slow inside a host",
          std::string("unset ") + name);
    }
    if (!rank.host.rdma.empty() && value_of(rank.host, "NCCL_IB_DISABLE") == "1" && nodes_.size() > 1) {
      add(Weight::warning, "NCCL", at(rank) + "NCCL_IB_DISABLE=1, and there is " + rank.host.rdma.front().device,
          "unset NCCL_IB_DISABLE");
    }
    if (!rank.host.rdma.empty() && !rank.host.gpu_direct_rdma && nodes_.size() > 1) {
      add(Weight::note, "NCCL",
          at(rank) +
              "nvidia_peermem is not loaded; GPUs reach the network directly only where driver and kernel "
              "offer DMA-BUF");
    }
  });
  each_node([&](const RankFacts& rank) {
    const std::string why = low_latency_trouble(rank);
    if (why.empty()) return;
    add(Weight::note, "NCCL",
        at(rank) + "the GPUs can't exchange small messages by themselves (--low-latency): " + why);
  });
}

void Diagnosis::network() {
  each_node([&](const RankFacts& rank) {
    const auto& interfaces = rank.host.interfaces;
    const std::string chosen = value_of(rank.host, "NCCL_SOCKET_IFNAME");
    const bool plain = !chosen.empty() && chosen.find_first_of("^=,") == std::string::npos;
    if (plain && chosen != "lo" &&
        std::ranges::none_of(interfaces, [&](const auto& i) { return i.name.starts_with(chosen); })) {
      add(Weight::problem, "network", at(rank) + "NCCL_SOCKET_IFNAME=" + chosen + ", and no such interface is up",
          "unset it, or name one that is up");
    }
    for (const RdmaPort& port : rank.host.rdma) {
      if (port.state == "ACTIVE" || nodes_.size() == 1) continue;
      add(Weight::note, "network",
          at(rank) + "port " + std::to_string(port.port) + " of " + port.device + " is " + port.state);
    }
    if (nodes_.size() == 1) return;
    if (interfaces.empty()) {
      add(Weight::problem, "network", at_rank(rank) + "no network interface is up", "bring one up");
    }
    if (interfaces.size() > 1 && rank.host.rdma.empty() && chosen.empty() &&
        value_of(rank.host, "OMPI_MCA_btl_tcp_if_include").empty()) {
      std::string names;
      for (const NetworkInterface& i : interfaces) names += (names.empty() ? "" : ", ") + i.name;
      add(Weight::warning, "network",
          at(rank) + "several interfaces are up (" + names + "), and ranks may pick one that leads nowhere",
          "name the one between the hosts: OMPI_MCA_btl_tcp_if_include and NCCL_SOCKET_IFNAME");
    }
  });
}

}  // namespace

std::vector<int> gpus_of(std::span<const RankFacts> ranks, bool share) {
  std::vector<std::vector<std::string>> seen;
  for (const RankFacts& rank : ranks) {
    seen.emplace_back();
    for (const Gpu& gpu : rank.gpu.gpus) {
      seen.back().push_back(gpu.uuid.empty() ? rank.host.name + " " + gpu.bus_id : gpu.uuid);
    }
  }
  return gpus_of_ranks(seen, share);
}

std::vector<Finding> diagnose(std::span<const RankFacts> ranks, const WantedJob& job) {
  return Diagnosis(ranks, job).findings();
}

const char* to_string(Finding::Weight weight) noexcept {
  switch (weight) {
    case Weight::problem:
      return "problem";
    case Weight::warning:
      return "warning";
    case Weight::note:
      break;
  }
  return "note";
}

}  // namespace coterie
