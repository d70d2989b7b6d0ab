// What one rank, or one process without MPI, finds out about the machine it is on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace coterie {

/// How this program was built.
struct BuildFacts {
  std::string version;
  std::string cuda;                ///< of the toolkit, "13.0.88"; empty: without CUDA
  std::vector<int> architectures;  ///< of GPUs, 80 for compute capability 8.0
  std::string nccl;                ///< "2.28.9"; empty: without NCCL
};

struct MpiFacts {
  std::string built_with, loaded;  ///< "Open MPI 4.1.4", "Open MPI v4.1.4"
  std::string launcher;            ///< what started this process; empty: nothing that starts ranks
  int tasks = 0;                   ///< that the launcher says it started; 0: it doesn't say
  int rank = 0, ranks = 1;         ///< as MPI says
  int node = 0;                    ///< ranks of one node share memory
  int local_rank = 0, local_ranks = 1;
};

/// A network interface that is up and isn't the loopback, with an IPv4 or IPv6 address.
struct NetworkInterface {
  std::string name, address;
  std::int64_t mbit = 0;  ///< per second; 0: not known
};

/// A port of an RDMA device (InfiniBand, RoCE, EFA).
struct RdmaPort {
  std::string device;
  int port = 1;
  std::string state, rate, layer;  ///< as the kernel says: "ACTIVE", "400 Gb/sec (4X NDR)", "InfiniBand"
};

struct EnvironmentVariable {
  std::string name, value;
};

struct HostFacts {
  std::string name, system, kernel, processor;
  int cores = 0;                                    ///< hardware threads of the host
  int usable_cores = 0;                             ///< those that this process may use
  double cpu_quota = 0;                             ///< cores that its control group may use; 0: no limit
  std::string instructions;                         ///< of those that matter: "avx2 avx512f avx512_bf16"
  std::uint64_t memory = 0, memory_available = 0;   ///< bytes
  std::uint64_t memory_limit = 0;                   ///< bytes that its control group may use; 0: no limit
  std::uint64_t shared_memory_free = 0;             ///< bytes in /dev/shm
  std::uint64_t locked_memory = 0, open_files = 0;  ///< limits; the largest number: none
  bool gpu_direct_rdma = false;                     ///< nvidia_peermem is loaded
  std::vector<NetworkInterface> interfaces;
  std::vector<RdmaPort> rdma;
  std::vector<EnvironmentVariable> environment;  ///< that MPI, CUDA, NCCL or OpenMP read
};

/// A GPU that this process sees.
struct Gpu {
  std::string name, bus_id, uuid;
  int capability = 0;                                            ///< 90 for compute capability 9.0
  std::uint64_t memory = 0, free = 0;                            ///< bytes; free 0: not known
  int pcie_generation = 0, pcie_width = 0, pcie_most_width = 0;  ///< 0: not known
  std::string compute_mode;  ///< "default", "exclusive", "prohibited"; empty: not known
  bool mig = false;
};

struct GpuFacts {
  bool hardware = false;  ///< the kernel knows an NVIDIA GPU, whatever libraries say
  std::string trouble;    ///< why no GPU can be used; empty otherwise
  std::string driver;     ///< "580.65.06"
  int cuda = 0;           ///< that the driver goes up to: 13000 for 13.0
  int on_host = 0;        ///< GPUs that the driver manages, also those hidden from this process
  std::vector<Gpu> gpus;
  /// (gpus, gpus): "NV18" (that many NVLinks), else what lies between, as nvidia-smi names it: "PIX" a PCIe bridge,
  /// "PXB" several, "PHB" the host bridge, "NODE" one NUMA node's bridges, "SYS" two; empty: not known.
  std::vector<std::vector<std::string>> links;
  std::vector<std::vector<bool>> peers;  ///< (gpus, gpus): one reads the other's memory
};

struct NcclFacts {
  int version = 0;      ///< of the library: 22809 for 2.28.9; 0: none
  std::string file;     ///< of the library
  std::string trouble;  ///< why there is none
};

struct RankFacts {
  BuildFacts build;
  MpiFacts mpi;
  HostFacts host;
  GpuFacts gpu;
  NcclFacts nccl;
};

[[nodiscard]] BuildFacts find_build();
/// Before MPI starts: one rank of one.
[[nodiscard]] MpiFacts find_mpi();
[[nodiscard]] HostFacts find_host();
[[nodiscard]] GpuFacts find_gpus();
[[nodiscard]] NcclFacts find_nccl();
/// All of it.
[[nodiscard]] RankFacts find_facts();

/// Whether this rank's host has several GPUs for its ranks.
[[nodiscard]] bool has_several_gpus(const RankFacts& facts) noexcept;
/// Why its GPUs can't exchange small messages by themselves (generate's --low-latency), as far as can be seen before a
/// job starts; empty: they may, or there is one only.
[[nodiscard]] std::string low_latency_trouble(const RankFacts& facts);
/// Of an environment variable; empty: it is not set.
[[nodiscard]] std::string value_of(const HostFacts& host, const std::string& name);

/// 13000 -> "13.0"
[[nodiscard]] std::string cuda_version_text(int version);
/// 22809 -> "2.28.9"
[[nodiscard]] std::string nccl_version_text(int version);

}  // namespace coterie
