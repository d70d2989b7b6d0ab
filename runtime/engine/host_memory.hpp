// The memory of the host that this process runs on.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace coterie {

/// Bytes of memory that this process held at most.
[[nodiscard]] std::int64_t peak_memory();

/// What can still be had of the host's memory, and of what control groups leave this process of it, such as a Slurm
/// job's. Pages of files can be had.
class HostMemory {
 public:
  /// Finds the groups, and their limits. `root`: where /proc and /sys are.
  explicit HostMemory(std::filesystem::path root = "/");

  /// Whether less than a thirty-second of any of them is left.
  [[nodiscard]] bool is_short() const;

 private:
  struct GroupNames;
  struct Group {
    std::filesystem::path folder;
    const GroupNames* names = nullptr;
    std::int64_t limit = 0;  ///< bytes
  };
  static const GroupNames kVersion1, kVersion2;

  /// The group at `path` and those that it is in, as far as they have limits.
  void add_groups(const std::filesystem::path& path, const GroupNames& names);
  [[nodiscard]] bool host_is_short() const;
  [[nodiscard]] static bool group_is_short(const Group& group);

  std::filesystem::path root_;
  std::vector<Group> groups_;
};

}  // namespace coterie
