#include "runtime/cost/calibration.hpp"

#include "tests/mpi_main.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>

#include <cstring>

namespace coterie {
namespace {

/// What a job measured is a machine file for the next one.
TEST(Calibration, CanBeReadFromAFileAndIsTheSameOnAllRanks) {
  const auto device = make_cpu_device({DType::f32, 1});
  for (const int ranks_per_node : {1, 2, 3}) {
    const auto comm = make_mpi_communicator(test_session(), {.ranks_per_node = ranks_per_node});
    const Machine measured = calibrate(*comm, *device, 64);
    const ScratchFolder folder;
    write_machine(folder / "machine.json", measured);
    const Machine machine = read_machine(folder / "machine.json");
    EXPECT_EQ(machine.measured_by.find("coterie "), 0U);
    EXPECT_EQ(machine.measured_when.size(), std::strlen("2026-01-31T12:00:00Z"));
    EXPECT_NE(machine.measured_on.find(device->name()), std::string::npos);
    EXPECT_EQ(machine.between_nodes.has_value(), comm->ranks() > ranks_per_node);
    EXPECT_GT(machine.gemm.size(), 1U);
    EXPECT_EQ(machine.memory_per_rank, 0U);

    std::vector<double> figures{machine.inside_node.latency, machine.inside_node.bandwidth};
    for (const GemmRate& g : machine.gemm) figures.push_back(g.rate);
    const auto bytes = std::as_bytes(std::span(figures));
    for (const auto& theirs : comm->all_gather(bytes, {"test"})) {
      ASSERT_EQ(theirs.size(), bytes.size());
      EXPECT_EQ(std::memcmp(theirs.data(), bytes.data(), bytes.size()), 0);
    }
  }
}

}  // namespace
}  // namespace coterie
