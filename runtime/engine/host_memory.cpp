#include "runtime/engine/host_memory.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <utility>

namespace coterie {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kShare = 32;                       // of all memory is to be left
constexpr std::int64_t kNoLimit = std::int64_t{1} << 62;  // bytes, from which on a limit of version 1 is none

/// 0 where the file has none, as where it says "max".
std::int64_t number_in(const fs::path& file) {
  std::int64_t number = 0;
  std::ifstream(file) >> number;
  return number;
}

}  // namespace

std::int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return std::int64_t{usage.ru_maxrss} * 1024;
}

/// How a version of control groups calls its files and figures (Linux, admin-guide: cgroup-v2, cgroup-v1/memory).
struct HostMemory::GroupNames {
  const char *mount, *limit, *used;
  const char *inactive_files, *active_files;  ///< in memory.stat
};
constexpr HostMemory::GroupNames HostMemory::kVersion1{"sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                                       "memory.usage_in_bytes", "total_inactive_file",
                                                       "total_active_file"};
constexpr HostMemory::GroupNames HostMemory::kVersion2{"sys/fs/cgroup", "memory.max", "memory.current", "inactive_file",
                                                       "active_file"};

HostMemory::HostMemory(fs::path root) : root_(std::move(root)) {
  std::ifstream file(root_ / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // number:controllers:path
    const std::size_t controllers = line.find(':') + 1, path = line.find(':', controllers) + 1;
    if (controllers == 0 || path == 0) continue;
    const std::string of = "," + line.substr(controllers, path - controllers - 1) + ",";
    if (of == ",,") add_groups(line.substr(path), kVersion2);
    if (of.find(",memory,") != std::string::npos) add_groups(line.substr(path), kVersion1);
  }
}

void HostMemory::add_groups(const fs::path& path, const GroupNames& names) {
  const fs::path mount = root_ / names.mount;
  const auto add = [&](const fs::path& folder) {
    const std::int64_t limit = number_in(folder / names.limit);
    if (limit > 0 && limit < kNoLimit) groups_.push_back({folder, &names, limit});
  };
  for (fs::path group = path.relative_path(); !group.empty(); group = group.parent_path()) add(mount / group);
  add(mount);  // a container's own, which the host may call otherwise
}

bool HostMemory::is_short() const {
  return host_is_short() || std::any_of(groups_.begin(), groups_.end(), group_is_short);
}

bool HostMemory::host_is_short() const {
  std::ifstream file(root_ / "proc/meminfo");
  std::string field, unit;
  std::int64_t kibibytes = 0, total = 0, available = 0;
  while (available == 0 && file >> field >> kibibytes >> unit) {
    if (field == "MemTotal:") total = kibibytes;
    if (field == "MemAvailable:") available = kibibytes;
  }
  return total > 0 && available < total / kShare;
}

bool HostMemory::group_is_short(const Group& group) {
  std::int64_t left = group.limit - number_in(group.folder / group.names->used);
  if (left >= group.limit / kShare) return false;
  std::ifstream statistics(group.folder / "memory.stat");
  std::string name;
  for (std::int64_t bytes = 0; statistics >> name >> bytes;) {
    if (name == group.names->inactive_files || name == group.names->active_files) left += bytes;
  }
  return left < group.limit / kShare;
}

}  // namespace coterie
