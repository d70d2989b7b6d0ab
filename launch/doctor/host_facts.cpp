#include "launch/doctor/facts.hpp"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <sstream>

namespace coterie {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
  std::ifstream in(path);
  std::string line;
  std::getline(in, line);
  return line;
}

/// What stands behind "key :" or "key=" in a file of such lines.
std::string value_of(const fs::path& path, const std::string& key) {
  std::ifstream in(path);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const std::size_t at = line.find_first_not_of(" \t", key.size());
    if (at == std::string::npos || (line[at] != ':' && line[at] != '=')) continue;
    const std::size_t first = line.find_first_not_of(" \t\"", at + 1);
    if (first == std::string::npos) return "";
    return line.substr(first, line.find_last_not_of(" \t\"") + 1 - first);
  }
  return "";
}

std::uint64_t number(const std::string& text) {
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

/// What the control groups that this process is in, and those around them, allow at most: the tightest.
template <class Take>
void walk_control_groups(const Take& take) {
  const fs::path root = "/sys/fs/cgroup";
  std::ifstream in("/proc/self/cgroup");
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with("0::")) continue;
    fs::path group = root / fs::path(line.substr(3)).relative_path();
    while (group.native().size() >= root.native().size()) {
      take(group);
      if (group == root || !group.has_parent_path()) break;
      group = group.parent_path();
    }
  }
}

void find_processor(HostFacts& host) {
  host.processor = value_of("/proc/cpuinfo", "model name");
  host.cores = static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
  cpu_set_t set;
  CPU_ZERO(&set);
  host.usable_cores = ::sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : host.cores;
  std::istringstream flags(value_of("/proc/cpuinfo", "flags"));
  const std::set<std::string> has{std::istream_iterator<std::string>(flags), {}};
  for (const char* wanted : {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"}) {
    if (has.count(wanted) != 0) host.instructions += (host.instructions.empty() ? "" : " ") + std::string(wanted);
  }
  walk_control_groups([&](const fs::path& group) {
    std::istringstream in(first_line(group / "cpu.max"));
    double quota = 0, period = 0;
    if (!(in >> quota >> period) || period <= 0) return;
    host.cpu_quota = host.cpu_quota == 0 ? quota / period : std::min(host.cpu_quota, quota / period);
  });
}

void find_memory(HostFacts& host) {
  constexpr std::uint64_t kib = 1024;
  host.memory = number(value_of("/proc/meminfo", "MemTotal")) * kib;
  host.memory_available = number(value_of("/proc/meminfo", "MemAvailable")) * kib;
  walk_control_groups([&](const fs::path& group) {
    const std::uint64_t limit = number(first_line(group / "memory.max"));
    if (limit > 0) host.memory_limit = host.memory_limit == 0 ? limit : std::min(host.memory_limit, limit);
  });
  struct statvfs shm {};
  if (::statvfs("/dev/shm", &shm) == 0) host.shared_memory_free = std::uint64_t{shm.f_bavail} * shm.f_frsize;
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0) host.locked_memory = limit.rlim_cur;
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) host.open_files = limit.rlim_cur;
}

std::string text_of(const sockaddr& address) {
  std::array<char, INET6_ADDRSTRLEN> text{};
  const void* bytes = nullptr;
  if (address.sa_family == AF_INET) bytes = &reinterpret_cast<const sockaddr_in&>(address).sin_addr;
  if (address.sa_family == AF_INET6) bytes = &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr;
  if (bytes == nullptr || ::inet_ntop(address.sa_family, bytes, text.data(), text.size()) == nullptr) return "";
  return text.data();
}

/// One line an interface: its IPv4 address before its IPv6 ones.
std::vector<NetworkInterface> find_interfaces() {
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return {};
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(all, ::freeifaddrs);
  std::vector<NetworkInterface> found;
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* i = all; i != nullptr; i = i->ifa_next) {
      if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != family) continue;
      if ((i->ifa_flags & IFF_LOOPBACK) != 0 || (i->ifa_flags & IFF_UP) == 0) continue;
      const std::string name = i->ifa_name;
      if (std::ranges::any_of(found, [&](const NetworkInterface& f) { return f.name == name; })) continue;
      const std::string speed = first_line("/sys/class/net/" + name + "/speed");  // "-1" where there is none
      found.push_back({name, text_of(*i->ifa_addr), static_cast<std::int64_t>(number(speed))});
    }
  }
  return found;
}

std::vector<RdmaPort> find_rdma() {
  std::vector<RdmaPort> found;
  std::error_code error;
  for (const auto& device : fs::directory_iterator("/sys/class/infiniband", error)) {
    for (const auto& port : fs::directory_iterator(device.path() / "ports", error)) {
      std::string state = first_line(port.path() / "state");  // "4: ACTIVE"
      state = state.substr(std::min(state.size(), state.find(' ') + 1));
      found.push_back({device.path().filename().string(), static_cast<int>(number(port.path().filename().string())),
                       state, first_line(port.path() / "rate"), first_line(port.path() / "link_layer")});
    }
  }
  std::ranges::sort(found, {}, [](const RdmaPort& p) { return std::pair(p.device, p.port); });
  return found;
}

/// Not what a launcher tells its ranks, but what people set.
std::vector<EnvironmentVariable> find_environment() {
  constexpr std::array<std::string_view, 7> starts{"NCCL_", "OMPI_MCA_", "UCX_", "CUDA_", "NVIDIA_", "OMP_", "KMP_"};
  constexpr std::array<std::string_view, 5> launchers{"OMPI_MCA_ess", "OMPI_MCA_orte", "OMPI_MCA_pmix",
                                                      "OMPI_MCA_initial", "OMPI_MCA_shmem"};
  const auto begins = [](std::string_view text) { return [text](std::string_view s) { return text.starts_with(s); }; };
  std::vector<EnvironmentVariable> found;
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string_view line = *e;
    if (std::ranges::none_of(starts, begins(line)) || std::ranges::any_of(launchers, begins(line))) continue;
    const std::size_t equals = line.find('=');
    if (equals == std::string_view::npos) continue;
    found.push_back({std::string(line.substr(0, equals)), std::string(line.substr(equals + 1))});
  }
  std::ranges::sort(found, {}, &EnvironmentVariable::name);
  return found;
}

}  // namespace

HostFacts find_host() {
  HostFacts host;
  utsname system{};
  if (::uname(&system) == 0) {
    host.name = system.nodename;
    host.kernel = std::string(system.sysname) + ' ' + system.release;
  }
  host.system = value_of("/etc/os-release", "PRETTY_NAME");
  find_processor(host);
  find_memory(host);
  host.gpu_direct_rdma = fs::exists("/sys/module/nvidia_peermem") || fs::exists("/sys/module/nv_peer_mem");
  host.interfaces = find_interfaces();
  host.rdma = find_rdma();
  host.environment = find_environment();
  return host;
}

}  // namespace coterie
