// A message over 2 GiB, which MPI's counts can't express. In a program of its own, as it may have to be skipped.
#include "comm/communicator.hpp"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <limits>
#include <span>
#include <string>

namespace coterie {
namespace {

constexpr std::uint64_t kGiB = 1ULL << 30;

/// Bytes of memory that programs can still take, by the kernel's own estimate.
std::uint64_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  while (file >> word) {
    std::uint64_t kibibytes = 0;
    if (word == "MemAvailable:" && file >> kibibytes) return kibibytes << 10;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

std::span<std::uint64_t> words_of(const DeviceBytes& bytes) {
  return {reinterpret_cast<std::uint64_t*>(bytes.address()), bytes.size() / sizeof(std::uint64_t)};
}

TEST(BigMessage, MoreThanTwoGibibytesArriveWhole) {
  const bool enough = available_memory() > 6 * kGiB;
  if (!on_all_ranks(enough)) GTEST_SKIP() << "needs 6 GiB of memory";
  const auto comm = make_mpi_communicator(test_session(), {});
  const SectionSizes sizes = sizes_of({{Bulk::rows, 2 * kGiB + 4096}, {Bulk::freight, 100}});
  Outbox outbox(comm->ranks());
  if (comm->rank() == 0) {
    outbox[1] = Message(sizes, 5);
    std::uint64_t next = 0;
    for (std::uint64_t& word : words_of(outbox[1].section(Bulk::rows))) word = next += 0x9E3779B97F4A7C15;
  }
  Inbox inbox = comm->exchange(std::move(outbox), {"dispatch", 0, 0});
  if (comm->rank() != 1) return;
  EXPECT_EQ(inbox[0].flags(), 5U);
  EXPECT_EQ(inbox[0].section(Bulk::freight).size(), 100U);
  const auto words = words_of(inbox[0].section(Bulk::rows));
  ASSERT_EQ(words.size_bytes(), sizes[index_of(Bulk::rows)]);
  std::uint64_t next = 0;
  EXPECT_TRUE(
      std::all_of(words.begin(), words.end(), [&](std::uint64_t w) { return w == (next += 0x9E3779B97F4A7C15); }));
}

}  // namespace
}  // namespace coterie
