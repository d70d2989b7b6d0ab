#include "comm/nccl_communicator.hpp"

#include "comm/faulty_communicator.hpp"
#include "comm/message_memory.hpp"
#include "comm/nccl_sharing.hpp"
#include "tests/comm/communicator_conformance.hpp"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <new>
#include <string>

namespace coterie {
namespace {

#ifdef COTERIE_HOSTCUDA
constexpr std::chrono::seconds kSoon{1};
#else
constexpr std::chrono::seconds kSoon{10};  // NCCL takes a while to connect
#endif
constexpr CommOptions kPatient{.timeout = std::chrono::seconds(60)};
constexpr CommOptions kShort{.timeout = kSoon};
constexpr auto kUntilOthersGaveUp = kSoon + std::chrono::seconds(3);

bool is_here() {
  int gpus = 0;
  return cudaGetDeviceCount(&gpus) == cudaSuccess && gpus > 0 && nccl_trouble().empty();
}

MessageMemorySource pinned() {
  return {[](std::size_t bytes) {
            void* memory = nullptr;
            if (cudaMallocHost(&memory, bytes) != cudaSuccess) throw std::bad_alloc();
            return static_cast<std::byte*>(memory);
          },
          [](std::byte* memory) { (void)cudaFreeHost(memory); },
          0,
          {},
          {}};
}

/// Messages are in memory that GPUs reach while a test runs. Collective: no rank gives up before all have started.
std::unique_ptr<Communicator> make(const CommOptions& options, std::size_t slot) {
  static const MessageMemoryFrom messages(pinned());
  auto comm = std::make_unique<NcclCommunicator>(test_session(), NcclOptions{options, 0, true}, slot);
  (void)make_mpi_communicator(test_session(), {})->all_gather({}, {"the start of NCCL"});
  return comm;
}

std::vector<Transport> transports() {
  if (!is_here()) return {};
  return {{"nccl", [] { return make(kPatient, 16 << 10); }},
          // Nearly every message is longer than its slot.
          {"nccl_in_small_slots", [] { return make(kPatient, 0); }}};
}
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(CommunicatorConformance);
INSTANTIATE_TEST_SUITE_P(Transports, CommunicatorConformance, testing::ValuesIn(transports()), name_of);

TEST(Nccl, IsTestedWhereThereAreAGpuAndItsLibrary) {
  if (!on_all_ranks(is_here())) GTEST_SKIP() << "no GPU, or no NCCL: " << nccl_trouble();
}

std::string error_of(Communicator& comm, const Place& place) {
  try {
    (void)comm.exchange(Outbox(comm.ranks()), place);
  } catch (const CommError& e) {
    return e.what();
  }
  ADD_FAILURE() << "no CommError";
  return "";
}

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in '" << text << "'";
}

class NcclFault : public testing::Test {
 protected:
  void SetUp() override {
    (void)make_mpi_communicator(test_session(), {})->all_gather({}, {"the start of a test"});
    if (!on_all_ranks(is_here())) GTEST_SKIP() << "no GPU, or no NCCL";
  }
};

TEST_F(NcclFault, ATimeOutNamesTheAbsentRankTheCollectiveTheLayerAndTheStep) {
  if (test_session().ranks() != 3) return;  // they take their time
  const auto inner = make(kShort, 4096);
  const bool absent = inner->rank() == 1;
  FaultyCommunicator comm(
      *inner, [&](const Place& p) { return absent && p.layer == 3 ? Fault::absent : Fault::none; }, kUntilOthersGaveUp);
  (void)comm.exchange(Outbox(comm.ranks()), {"dispatch", 2, 17});
  const std::string text = error_of(comm, {"dispatch", 3, 17});
  expect_contains(text, "dispatch at layer 3, step 17");
  if (absent) return;
  expect_contains(text, "rank 1");
  if (text.find("gave up") == std::string::npos) {
    expect_contains(text, "timed out after");
    expect_contains(text,
                    "rank 1 did not arrive; rank 1 does not answer, it was last seen at dispatch at layer 2, step 17");
  }
  expect_contains(error_of(*inner, {"combine", 3, 17}), "failed before, at dispatch at layer 3, step 17");
}

TEST_F(NcclFault, RanksAtDifferentPlacesAreToldBothPlaces) {
  if (test_session().ranks() != 3) return;  // they take their time
  const auto comm = make(kPatient, 4096);
  const std::string text = error_of(*comm, comm->rank() == 1 ? Place{"combine", 4, 17} : Place{"dispatch", 3, 17});
  expect_contains(text, "dispatch at layer 3, step 17");
  expect_contains(text, "combine at layer 4, step 17");
}

TEST_F(NcclFault, ARankThatWaitsForAGatherSaysSo) {
  if (test_session().ranks() != 3) return;  // they take their time
  const auto comm = make(kShort, 4096);
  if (comm->rank() == 1) {
    EXPECT_THROW((void)comm->all_gather({}, {"counts", 5, 17}), CommError);
    return;
  }
  const std::string text = error_of(*comm, {"dispatch", 5, 17});
  if (text.find("gave up") == std::string::npos) expect_contains(text, "rank 1 stands at counts at layer 5, step 17");
}

#ifdef COTERIE_HOSTCUDA
TEST_F(NcclFault, WhatNcclSaysIsPassedOn) {
  if (test_session().ranks() != 3) return;  // they take their time
  const auto comm = make(kPatient, 4096);
  hostcuda::break_nccl(comm->rank() == 0);
  const std::string text = error_of(*comm, {"dispatch", 5, 17});
  hostcuda::break_nccl(false);
  expect_contains(text, "dispatch at layer 5, step 17");
  expect_contains(text, "remote process exited or there was a network error");
  expect_contains(text, comm->rank() == 0 ? "the test double was told to fail" : "rank 0 gave up");
}
#endif

TEST(SharedGpus, RanksOnOneGpuLookLikeHostsOfTheirOwn) {
  const auto environment = [](int version, int rank) {
    const auto all = environment_to_share_gpus(version, rank, true);
    return std::map<std::string, std::string>(all.begin(), all.end());
  };
  EXPECT_NE(environment(22809, 0)["NCCL_HOSTID"], environment(22809, 1)["NCCL_HOSTID"]);
  EXPECT_EQ(environment(22809, 0)["NCCL_SOCKET_IFNAME"], "lo");
  EXPECT_EQ(environment(23003, 0), (std::map<std::string, std::string>{{"NCCL_MULTI_RANK_GPU_ENABLE", "1"}}));
}

}  // namespace
}  // namespace coterie
