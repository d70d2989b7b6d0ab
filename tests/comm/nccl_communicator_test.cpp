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
constexpr bool kAllReachAll = true;
constexpr int kAllRanks = 1 << 20;
constexpr std::chrono::seconds kSoon{1};
#else
constexpr bool kAllReachAll = false;
constexpr std::chrono::seconds kSoon{10};  // NCCL takes a while to connect
#endif
constexpr CommOptions kPatient{.timeout = std::chrono::seconds(60)};
constexpr CommOptions kShort{.timeout = kSoon};
constexpr auto kUntilOthersGaveUp = kSoon + std::chrono::seconds(3);

bool is_here() {
  int gpus = 0;
  return cudaGetDeviceCount(&gpus) == cudaSuccess && gpus > 0 && nccl_trouble().empty();
}

/// What a GPU's work does to messages: on a stream of its own.
class Gpu {
 public:
  Gpu() {
    (void)cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
    (void)cudaEventCreateWithFlags(&event_, cudaEventDisableTiming);
  }

  MessageMemorySource memory() {
    MessageMemorySource source;
    source.host =
        memory_by([](void** memory, std::size_t bytes) { return cudaMallocHost(memory, bytes); }, cudaFreeHost);
    source.bulk = memory_by([](void** memory, std::size_t bytes) { return cudaMalloc(memory, bytes); }, cudaFree);
    source.precede = [this](cudaStream_t other) { order(stream_, other); };
    source.follow = [this](cudaStream_t other) { order(other, stream_); };
    return source;
  }

  void write(std::span<const std::byte> from, const DeviceBytes& to) {
    (void)cudaMemcpyAsync(to.address(), from.data(), from.size(), cudaMemcpyHostToDevice, stream_);
  }
  [[nodiscard]] std::vector<std::byte> read(const DeviceBytes& from) {
    std::vector<std::byte> to(from.size());
    (void)cudaMemcpyAsync(to.data(), from.address(), to.size(), cudaMemcpyDeviceToHost, stream_);
    (void)cudaStreamSynchronize(stream_);
    return to;
  }

 private:
  template <class Allocate, class Free>
  static MemorySource memory_by(Allocate allocate, Free free) {
    return {[allocate](std::size_t bytes) {
              void* memory = nullptr;
              if (allocate(&memory, bytes) != cudaSuccess) throw std::bad_alloc();
              return static_cast<std::byte*>(memory);
            },
            [free](std::byte* memory) { (void)free(memory); }};
  }
  void order(cudaStream_t first, cudaStream_t then) {
    (void)cudaEventRecord(event_, first);
    (void)cudaStreamWaitEvent(then, event_, 0);
  }

  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;
};

Gpu& gpu() {
  static Gpu& instance = *new Gpu;
  return instance;
}

int gpus() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

/// Messages are in memory that GPUs reach while a test runs. Collective: no rank gives up before all have started.
std::unique_ptr<NcclCommunicator> make(const CommOptions& options, std::size_t slot,
                                       LowLatency low_latency = LowLatency::off) {
  static const MessageMemoryFrom messages(gpu().memory());
  const bool share = gpus() < test_session().ranks();
  const NcclOptions all{options, share ? 0 : test_session().rank(), share, low_latency};
  auto comm = std::make_unique<NcclCommunicator>(test_session(), all, slot);
  (void)make_mpi_communicator(test_session(), {})->all_gather({}, {"the start of NCCL"});
  return comm;
}

std::vector<Transport> transports() {
  if (!is_here()) return {};
  const auto way = [](const char* name, std::size_t slot, LowLatency low_latency) {
    return Transport{name, [=] { return make(kPatient, slot, low_latency); },
                     [](std::span<const std::byte> from, const DeviceBytes& to) { gpu().write(from, to); },
                     [](const DeviceBytes& from) { return gpu().read(from); }};
  };
  std::vector<Transport> all{way("nccl", 16 << 10, LowLatency::off),
                             // Nearly every head is longer than its slot.
                             way("nccl_in_small_slots", 0, LowLatency::off)};
  if (kAllReachAll || gpus() > 1) {
    all.push_back(way("low_latency", 16 << 10, LowLatency::on));
    all.push_back(way("low_latency_in_small_slots", 0, LowLatency::on));
  }
  return all;
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
/// One way and the other.
class NcclSlotsFault : public NcclFault, public testing::WithParamInterface<LowLatency> {};
INSTANTIATE_TEST_SUITE_P(Ways, NcclSlotsFault, testing::Values(LowLatency::off, LowLatency::on));

TEST_P(NcclSlotsFault, ATimeOutNamesTheAbsentRankTheCollectiveTheLayerAndTheStep) {
  if (test_session().ranks() != 3) return;  // they take their time
  const auto inner = make(kShort, 4096, GetParam());
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

TEST_P(NcclSlotsFault, RanksAtDifferentPlacesAreToldBothPlaces) {
  if (test_session().ranks() != 3) return;  // they take their time
  const auto comm = make(kPatient, 4096, GetParam());
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

#ifdef COTERIE_HOSTCUDA
/// What a rank says to each: its number and the other's.
void expect_exchange(Communicator& comm) {
  Outbox outbox;
  for (int to = 0; to < comm.ranks(); ++to) outbox.emplace_back(SectionSizes{}, std::uint64_t(10 * comm.rank() + to));
  const Inbox inbox = comm.exchange(std::move(outbox), {"dispatch"});
  for (int from = 0; from < comm.ranks(); ++from)
    EXPECT_EQ(inbox[from].flags(), std::uint64_t(10 * from + comm.rank()));
}

TEST(NcclLowLatency, IsUsedWhereGpusReachOneAnother) {
  const bool several = test_session().ranks() > 1;
  EXPECT_EQ(make(kPatient, 4096, LowLatency::on)->low_latency().used, several);
  const auto chosen = make(kPatient, 4096, LowLatency::automatic);
  const LowLatencyFound& found = chosen->low_latency();
  EXPECT_EQ(found.trouble, "");
  EXPECT_EQ(found.used, found.seconds < found.seconds_without);
  EXPECT_EQ(found.seconds > 0 && found.seconds_without > 0, several);
  expect_exchange(*chosen);
}

TEST(NcclLowLatency, WhereGpusDoNotReachOneAnotherAllRanksSayWhy) {
  hostcuda::set_ranks_in_reach(0);
  const auto comm = make(kPatient, 4096, LowLatency::on);
  hostcuda::set_ranks_in_reach(kAllRanks);
  EXPECT_FALSE(comm->low_latency().used);
  if (comm->ranks() > 1) expect_contains(comm->low_latency().trouble, "rank 0: NCCL has no symmetric memory");
  expect_exchange(*comm);
}

TEST(NcclLowLatency, ARankOutOfReachIsReachedByNccl) {
  hostcuda::set_ranks_in_reach(2);
  const auto comm = make(kPatient, 4096, LowLatency::on);
  hostcuda::set_ranks_in_reach(kAllRanks);
  const int ranks = comm->ranks(), me = comm->rank();
  // With an odd number the last reaches nobody, and nobody uses it.
  EXPECT_EQ(comm->low_latency().used, ranks > 1 && ranks % 2 == 0);
  std::vector<int> pair;
  for (int r = me / 2 * 2; r < std::min(ranks, me / 2 * 2 + 2); ++r) pair.push_back(r);
  for (int round = 0; round < 5; ++round) {
    expect_exchange(*comm);
    Outbox outbox(static_cast<std::size_t>(ranks));
    for (const int to : pair) outbox[to] = Message(SectionSizes{100}, std::uint64_t(round));
    const Inbox inbox = comm->exchange(std::move(outbox), {"dispatch", 1, round, "", pair});
    for (const int from : pair) EXPECT_EQ(inbox[from].flags(), std::uint64_t(round));
  }
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
