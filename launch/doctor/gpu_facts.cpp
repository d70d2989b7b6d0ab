// What NVIDIA's libraries say, loaded at run time: they come with the driver, and most machines have none.
#include "comm/nccl_library.hpp"
#include "comm/shared_library.hpp"
#include "launch/doctor/facts.hpp"

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>
#include <optional>

namespace coterie {
namespace {

// Of the CUDA driver's and NVML's interfaces, what is asked here, as their documentation gives it.
namespace cuda {
using Result = int;  // 0: success
enum Attribute { capability_major = 75, capability_minor = 76 };
using Init = Result(unsigned flags);
using DriverGetVersion = Result(int* version);
using DeviceGetCount = Result(int* count);
using DeviceGet = Result(int* device, int index);
using DeviceGetName = Result(char* name, int length, int device);
using DeviceGetAttribute = Result(int* value, int attribute, int device);
using DeviceTotalMem = Result(std::size_t* bytes, int device);
using DeviceGetPciBusId = Result(char* id, int length, int device);
using DeviceCanAccessPeer = Result(int* can, int device, int peer);
using GetErrorString = Result(int error, const char** text);
}  // namespace cuda

namespace nvml {
using Result = int;  // 0: success
using Device = struct DeviceHandle*;
struct Pci {
  char legacy_id[16];
  unsigned domain, bus, device, pci_device, pci_subsystem;
  char id[32];
};
struct Memory {
  unsigned long long total, free, used;
};
constexpr int most_links = 36;
enum RemoteType { gpu = 0, nv_switch = 2 };
using Init = Result();
using Shutdown = Result();
using SystemGetDriverVersion = Result(char* text, unsigned length);
using DeviceGetCount = Result(unsigned* count);
using DeviceGetHandleByPciBusId = Result(const char* id, Device* device);
using DeviceGetText = Result(Device device, char* text, unsigned length);
using DeviceGetMemoryInfo = Result(Device device, Memory* memory);
using DeviceGetNumber = Result(Device device, unsigned* number);
using DeviceGetMode = Result(Device device, int* mode);
using DeviceGetMigMode = Result(Device device, unsigned* current, unsigned* pending);
using DeviceGetTopology = Result(Device a, Device b, int* level);
using LinkGetNumber = Result(Device device, unsigned link, int* number);
using LinkGetPci = Result(Device device, unsigned link, Pci* remote);
}  // namespace nvml

constexpr std::size_t kText = 128;

/// A library's functions by name; asking one that is missing is an error like any other.
class Functions {
 public:
  explicit Functions(const std::vector<std::string>& names) : library_(names) {}
  [[nodiscard]] const SharedLibrary& file() const { return library_; }
  template <class Function, class... Arguments>
  [[nodiscard]] int call(const char* name, Arguments... arguments) const {
    auto* const function = library_.find<Function>(name);
    return function == nullptr ? kMissing : function(arguments...);
  }
  static constexpr int kMissing = -1;

 private:
  SharedLibrary library_;
};

std::string trouble_of(const Functions& driver, const char* what, int error) {
  const char* text = nullptr;
  if (error == Functions::kMissing) return std::string(what) + ": the driver's library lacks it";
  (void)driver.call<cuda::GetErrorString>("cuGetErrorString", error, &text);
  return std::string(what) + ": " + (text == nullptr ? "error " + std::to_string(error) : text);
}

/// What the CUDA driver says: the GPUs that a program can use.
void ask_driver(GpuFacts& facts) {
  const Functions driver({"libcuda.so.1"});
  if (!driver.file()) {
    facts.trouble = driver.file().error();
    return;
  }
  (void)driver.call<cuda::DriverGetVersion>("cuDriverGetVersion", &facts.cuda);
  if (const int error = driver.call<cuda::Init>("cuInit", 0U); error != 0) {
    facts.trouble = trouble_of(driver, "cuInit", error);
    return;
  }
  int count = 0;
  if (const int error = driver.call<cuda::DeviceGetCount>("cuDeviceGetCount", &count); error != 0) {
    facts.trouble = trouble_of(driver, "cuDeviceGetCount", error);
    return;
  }
  std::vector<int> devices;
  for (int i = 0; i < count; ++i) {
    int device = 0, major = 0, minor = 0;
    std::array<char, kText> name{}, bus_id{};
    std::size_t bytes = 0;
    if (driver.call<cuda::DeviceGet>("cuDeviceGet", &device, i) != 0) continue;
    (void)driver.call<cuda::DeviceGetName>("cuDeviceGetName", name.data(), int{kText} - 1, device);
    (void)driver.call<cuda::DeviceGetPciBusId>("cuDeviceGetPCIBusId", bus_id.data(), int{kText} - 1, device);
    (void)driver.call<cuda::DeviceGetAttribute>("cuDeviceGetAttribute", &major, int{cuda::capability_major}, device);
    (void)driver.call<cuda::DeviceGetAttribute>("cuDeviceGetAttribute", &minor, int{cuda::capability_minor}, device);
    (void)driver.call<cuda::DeviceTotalMem>("cuDeviceTotalMem_v2", &bytes, device);
    devices.push_back(device);
    Gpu& gpu = facts.gpus.emplace_back();
    gpu.name = name.data();
    gpu.bus_id = bus_id.data();
    gpu.capability = 10 * major + minor;
    gpu.memory = bytes;
  }
  for (const int from : devices) {
    std::vector<bool>& row = facts.peers.emplace_back();
    for (const int to : devices) {
      int can = from == to ? 1 : 0;
      if (from != to) (void)driver.call<cuda::DeviceCanAccessPeer>("cuDeviceCanAccessPeer", &can, from, to);
      row.push_back(can != 0);
    }
  }
}

/// A GPU's active NVLinks: the PCI id at the other end of each, empty for a switch.
std::vector<std::string> nvlinks(const Functions& nvml, nvml::Device device) {
  std::vector<std::string> remotes;
  for (unsigned link = 0; link < nvml::most_links; ++link) {
    int active = 0, type = nvml::gpu;
    nvml::Pci remote{};
    if (nvml.call<nvml::LinkGetNumber>("nvmlDeviceGetNvLinkState", device, link, &active) != 0 || active == 0) continue;
    (void)nvml.call<nvml::LinkGetNumber>("nvmlDeviceGetNvLinkRemoteDeviceType", device, link, &type);
    if (type == nvml::nv_switch) {
      remotes.emplace_back();
    } else if (nvml.call<nvml::LinkGetPci>("nvmlDeviceGetNvLinkRemotePciInfo_v2", device, link, &remote) == 0) {
      remotes.emplace_back(remote.id);
    }
  }
  return remotes;
}

std::string topology_name(int level) {
  switch (level) {
    case 0:
      return "SAME";
    case 10:
      return "PIX";
    case 20:
      return "PXB";
    case 30:
      return "PHB";
    case 40:
      return "NODE";
    case 50:
      return "SYS";
    default:
      return "";
  }
}

/// What NVML adds about one GPU.
void describe(const Functions& nvml, nvml::Device device, Gpu& gpu) {
  std::array<char, kText> uuid{};
  nvml::Memory memory{};
  unsigned value = 0, pending = 0;
  int mode = 0;
  const auto number = [&](const char* name) {
    return nvml.call<nvml::DeviceGetNumber>(name, device, &value) == 0 ? static_cast<int>(value) : 0;
  };
  if (nvml.call<nvml::DeviceGetText>("nvmlDeviceGetUUID", device, uuid.data(), unsigned{kText} - 1) == 0) {
    gpu.uuid = uuid.data();
  }
  if (nvml.call<nvml::DeviceGetMemoryInfo>("nvmlDeviceGetMemoryInfo", device, &memory) == 0) gpu.free = memory.free;
  gpu.pcie_generation = number("nvmlDeviceGetMaxPcieLinkGeneration");
  gpu.pcie_width = number("nvmlDeviceGetCurrPcieLinkWidth");
  gpu.pcie_most_width = number("nvmlDeviceGetMaxPcieLinkWidth");
  if (nvml.call<nvml::DeviceGetMode>("nvmlDeviceGetComputeMode", device, &mode) == 0) {
    gpu.compute_mode = mode == 0 ? "default" : mode == 2 ? "prohibited" : "exclusive";
  }
  gpu.mig = nvml.call<nvml::DeviceGetMigMode>("nvmlDeviceGetMigMode", device, &value, &pending) == 0 && value == 1;
}

/// What NVML says of the driver, of the GPUs found, and of what is between them.
void ask_nvml(GpuFacts& facts) {
  const Functions nvml({"libnvidia-ml.so.1"});
  if (!nvml.file() || nvml.call<nvml::Init>("nvmlInit_v2") != 0) return;
  std::array<char, kText> version{};
  if (nvml.call<nvml::SystemGetDriverVersion>("nvmlSystemGetDriverVersion", version.data(), unsigned{kText} - 1) == 0) {
    facts.driver = version.data();
  }
  unsigned on_host = 0;
  if (nvml.call<nvml::DeviceGetCount>("nvmlDeviceGetCount_v2", &on_host) == 0)
    facts.on_host = static_cast<int>(on_host);

  const std::size_t count = facts.gpus.size();
  std::vector<nvml::Device> devices(count, nullptr);
  std::vector<std::vector<std::string>> remotes(count);
  std::vector<std::string> ids(count);  // as NVML writes them
  for (std::size_t i = 0; i < count; ++i) {
    Gpu& gpu = facts.gpus[i];
    if (nvml.call<nvml::DeviceGetHandleByPciBusId>("nvmlDeviceGetHandleByPciBusId_v2", gpu.bus_id.c_str(),
                                                   &devices[i]) != 0) {
      devices[i] = nullptr;
      continue;
    }
    describe(nvml, devices[i], gpu);
    remotes[i] = nvlinks(nvml, devices[i]);
    nvml::Pci pci{};
    using GetPci = nvml::Result(nvml::Device, nvml::Pci*);
    if (nvml.call<GetPci>("nvmlDeviceGetPciInfo_v3", devices[i], &pci) == 0) ids[i] = pci.id;
  }
  facts.links.assign(count, std::vector<std::string>(count));
  for (std::size_t a = 0; a < count; ++a) {
    for (std::size_t b = 0; b < count; ++b) {
      if (a == b || devices[a] == nullptr || devices[b] == nullptr) continue;
      // Links to switches reach every GPU that has such links too.
      const auto to_switch = std::min(std::ranges::count(remotes[a], ""), std::ranges::count(remotes[b], ""));
      const auto direct = ids[b].empty() ? 0 : std::ranges::count(remotes[a], ids[b]);
      int level = -1;
      if (direct + to_switch > 0) {
        facts.links[a][b] = "NV" + std::to_string(direct + to_switch);
      } else if (nvml.call<nvml::DeviceGetTopology>("nvmlDeviceGetTopologyCommonAncestor", devices[a], devices[b],
                                                    &level) == 0) {
        facts.links[a][b] = topology_name(level);
      }
    }
  }
  (void)nvml.call<nvml::Shutdown>("nvmlShutdown");
}

}  // namespace

GpuFacts find_gpus() {
  GpuFacts facts;
  std::error_code error;
  for (const auto& device : std::filesystem::directory_iterator("/proc/driver/nvidia/gpus", error)) {
    facts.hardware = facts.hardware || device.exists(error);
  }
  ask_driver(facts);
  ask_nvml(facts);
  facts.hardware = facts.hardware || facts.on_host > 0 || !facts.gpus.empty();
  return facts;
}

NcclFacts find_nccl() {
  NcclFacts facts;
  facts.version = nccl_version();
  facts.file = nccl_library().path();
  facts.trouble = nccl_library().error();
  if (nccl_library() && facts.version == 0) facts.trouble = facts.file + ": ncclGetVersion fails";
  return facts;
}

}  // namespace coterie
