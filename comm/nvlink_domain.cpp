#include "comm/nvlink_domain.hpp"

#include "comm/shared_library.hpp"

#include <algorithm>
#include <array>
#include <cstdio>

namespace coterie {
namespace {

/// NVML's nvmlGpuFabricInfo_t, and its value of `state` for a GPU that has joined its fabric.
struct FabricInfo {
  std::array<unsigned char, 16> cluster;
  int status;
  unsigned clique;
  unsigned char state;
};
constexpr unsigned char kJoined = 3;

}  // namespace

std::string nvlink_domain(const std::string& bus_id) {
  const SharedLibrary nvml({"libnvidia-ml.so.1"});
  using Init = int();
  using GetHandle = int(const char*, void**);
  using GetInfo = int(void*, FabricInfo*);
  auto* const init = nvml.find<Init>("nvmlInit_v2");
  auto* const get_handle = nvml.find<GetHandle>("nvmlDeviceGetHandleByPciBusId_v2");
  auto* const get_info = nvml.find<GetInfo>("nvmlDeviceGetGpuFabricInfo");
  auto* const shutdown = nvml.find<Init>("nvmlShutdown");
  if (!init || !get_handle || !get_info || !shutdown || init() != 0) return "";
  void* device = nullptr;
  FabricInfo info{};
  const bool known = get_handle(bus_id.c_str(), &device) == 0 && get_info(device, &info) == 0;
  (void)shutdown();
  const bool one_host = std::ranges::all_of(info.cluster, [](unsigned char byte) { return byte == 0; });
  if (!known || info.state != kJoined || info.status != 0 || one_host) return "";
  std::string text;
  for (const unsigned char byte : info.cluster) {
    std::array<char, 3> digits{};
    std::snprintf(digits.data(), digits.size(), "%02x", byte);
    text += digits.data();
  }
  return text + '.' + std::to_string(info.clique);
}

std::vector<int> nodes_of(std::span<const int> hosts, std::span<const std::string> domains) {
  const auto ranks = static_cast<int>(hosts.size());
  // The lowest rank that each is on one node with, perhaps by way of others.
  std::vector<int> lowest(hosts.size());
  for (int r = 0; r < ranks; ++r) lowest[r] = r;
  for (int r = 0; r < ranks; ++r) {
    for (int other = 0; other < r; ++other) {
      const bool near = hosts[r] == hosts[other] || (!domains[r].empty() && domains[r] == domains[other]);
      if (!near || lowest[r] == lowest[other]) continue;
      const auto [first, second] = std::minmax(lowest[r], lowest[other]);
      const int from = second, to = first;
      std::ranges::replace(lowest, from, to);
    }
  }
  std::vector<int> number(hosts.size());
  int next = 0;
  for (int r = 0; r < ranks; ++r) number[r] = lowest[r] == r ? next++ : number[lowest[r]];
  return number;
}

}  // namespace coterie
