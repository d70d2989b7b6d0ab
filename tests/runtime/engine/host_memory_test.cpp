#include "runtime/engine/host_memory.hpp"

#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

/// A host of 1,000 KiB, of which so much is available, and groups of which the process is in the innermost.
class HostMemoryTest : public testing::Test {
 protected:
  void write(const std::string& file, const std::string& text) {
    std::filesystem::create_directories((folder_ / file).parent_path());
    write_bytes(folder_ / file, text);
  }
  void host(int available_kibibytes) {
    write("proc/meminfo", "MemTotal: 1000 kB\nMemFree: 5 kB\nMemAvailable: " + std::to_string(available_kibibytes) +
                              " kB\nBuffers: 7 kB\n");
  }
  [[nodiscard]] bool is_short() const { return HostMemory(folder_ / "").is_short(); }

  ScratchFolder folder_;
};

TEST_F(HostMemoryTest, LooksAtTheHost) {
  host(500);
  EXPECT_FALSE(is_short());
  host(20);
  EXPECT_TRUE(is_short());
}

TEST_F(HostMemoryTest, LooksAtEveryGroupAroundTheProcess) {
  host(500);
  write("proc/self/cgroup", "0::/slurm/job_7/step_0\n");
  const std::string job = "sys/fs/cgroup/slurm/job_7/";
  write(job + "step_0/memory.max", "max\n");
  write(job + "step_0/memory.current", "96990\n");
  EXPECT_FALSE(is_short());
  write(job + "memory.max", "100000\n");
  write(job + "memory.current", "96000\n");
  EXPECT_FALSE(is_short());
  write(job + "memory.current", "97000\n");
  EXPECT_TRUE(is_short());
  write(job + "memory.stat", "anon 90000\ninactive_file 300\nactive_file 200\nslab 1000\n");
  EXPECT_FALSE(is_short()) << "pages of files can be had";
  write(job + "memory.stat", "anon 90000\ninactive_file 50\nactive_file 50\nslab 1000\n");
  EXPECT_TRUE(is_short());
}

TEST_F(HostMemoryTest, KnowsTheFirstVersionOfGroups) {
  host(500);
  write("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/job\n0::/\n");
  const std::string group = "sys/fs/cgroup/memory/job/";
  write(group + "memory.limit_in_bytes", "9223372036854771712\n");
  write(group + "memory.usage_in_bytes", "97500\n");
  EXPECT_FALSE(is_short());
  write(group + "memory.limit_in_bytes", "100000\n");
  EXPECT_TRUE(is_short());
  write(group + "memory.stat", "inactive_file 9\ntotal_inactive_file 5000\ntotal_active_file 0\n");
  EXPECT_FALSE(is_short());
}

TEST_F(HostMemoryTest, FindsTheGroupOfAContainerThatTheHostNamesOtherwise) {
  host(500);
  write("proc/self/cgroup", "0::/system.slice/docker-1234.scope\n");
  write("sys/fs/cgroup/memory.max", "100000\n");
  write("sys/fs/cgroup/memory.current", "99999\n");
  EXPECT_TRUE(is_short());
}

TEST_F(HostMemoryTest, TakesWhatCanNotBeReadAsEnough) {
  EXPECT_FALSE(is_short());
}

}  // namespace
}  // namespace coterie
