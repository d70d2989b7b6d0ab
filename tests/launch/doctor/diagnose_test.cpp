#include "launch/doctor/diagnose.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace coterie {
namespace {

using Weight = Finding::Weight;

constexpr WantedJob kOnGpus{WantedJob::Device::cuda, false};
constexpr WantedJob kAny{};

/// Ranks on hosts of eight H100, a GPU for each rank, in good order.
std::vector<RankFacts> cluster(int hosts, int ranks_per_host) {
  std::vector<RankFacts> ranks;
  for (int r = 0; r < hosts * ranks_per_host; ++r) {
    RankFacts rank;
    rank.build = {"0.1.0", "12.8.93", {80, 90, 100}, "2.28.9"};
    rank.mpi = {"Open MPI 4.1.4",       "Open MPI v4.1.4",  "Open MPI's mpirun", hosts * ranks_per_host, r,
                hosts * ranks_per_host, r / ranks_per_host, r % ranks_per_host,  ranks_per_host};
    rank.host.name = "host" + std::to_string(r / ranks_per_host);
    rank.host.cores = rank.host.usable_cores = 96;
    rank.host.memory = rank.host.memory_available = std::uint64_t{1} << 40;
    rank.host.shared_memory_free = std::uint64_t{1} << 36;
    rank.host.locked_memory = ~std::uint64_t{0};
    rank.host.open_files = 1 << 20;
    rank.host.gpu_direct_rdma = true;
    rank.host.interfaces = {{"eth0", "10.0.0.1", 100000}};
    rank.host.rdma = {{"mlx5_0", 1, "ACTIVE", "400 Gb/sec", "InfiniBand"}};
    rank.gpu.hardware = true;
    rank.gpu.driver = "570.124.06";
    rank.gpu.cuda = 12080;
    rank.gpu.on_host = 8;
    for (int g = 0; g < 8; ++g) {
      rank.gpu.gpus.push_back({"H100", "bus" + std::to_string(g), "", 90, 80, 79, 5, 16, 16, "default", false});
    }
    rank.gpu.links.assign(8, std::vector<std::string>(8, "NV18"));
    rank.gpu.peers.assign(8, std::vector<bool>(8, true));
    rank.nccl.version = 22809;
    ranks.push_back(rank);
  }
  return ranks;
}

GpuFacts without(const std::string& trouble) {
  GpuFacts gpu;
  gpu.trouble = trouble;
  return gpu;
}

/// The findings of a weight that have `part` in their text.
std::int64_t count(const std::vector<RankFacts>& ranks, const WantedJob& job, Weight weight, const std::string& part) {
  const auto findings = diagnose(ranks, job);
  return std::ranges::count_if(findings, [&](const Finding& f) {
    EXPECT_TRUE(f.weight == Weight::note || !f.remedy.empty()) << f.text << ": what is to be done?";
    return f.weight == weight && f.text.find(part) != std::string::npos;
  });
}

TEST(Diagnose, FindsNothingWhereAllIsWell) {
  for (const int hosts : {1, 2}) {
    for (const Finding& finding : diagnose(cluster(hosts, 8), kOnGpus)) ADD_FAILURE() << finding.text;
  }
}

TEST(Diagnose, RanksThatDoNotFindOneAnother) {
  auto ranks = cluster(1, 1);
  ranks[0].mpi.tasks = 4;
  EXPECT_EQ(count(ranks, kAny, Weight::problem, "started 4 processes, and MPI sees 1"), 1);
  ranks[0].mpi.launcher = "srun";
  EXPECT_NE(diagnose(ranks, kAny).front().remedy.find("--mpi=pmix"), std::string::npos);
}

TEST(Diagnose, AnotherMpiThanItWasBuiltWith) {
  auto ranks = cluster(1, 2);
  for (RankFacts& rank : ranks) rank.mpi.loaded = "Open MPI v5.0.1";
  EXPECT_EQ(count(ranks, kAny, Weight::problem, "built with Open MPI 4.1.4, but Open MPI v5.0.1 is loaded"), 1);
}

TEST(Diagnose, HostsThatDiffer) {
  auto ranks = cluster(2, 2);
  ranks[2].nccl.version = ranks[3].nccl.version = 22005;
  EXPECT_EQ(count(ranks, kOnGpus, Weight::problem, "NCCL libraries differ: 2.20.5 on rank 2, 2.28.9 on rank 0"), 1);
  ranks = cluster(2, 2);
  ranks[2].gpu = ranks[3].gpu = {};
  EXPECT_EQ(count(ranks, kAny, Weight::problem, "some hosts have GPUs and some have none"), 1);
  ranks = cluster(2, 2);
  for (Gpu& gpu : ranks[2].gpu.gpus) gpu.name = "A100";
  EXPECT_EQ(count(ranks, kAny, Weight::warning, "A100, H100"), 1);
}

TEST(Diagnose, WhatKeepsGpusFromBeingUsed) {
  const auto with = [](auto change) {
    auto ranks = cluster(1, 4);
    for (RankFacts& rank : ranks) change(rank);
    return ranks;
  };
  const auto stops = [](const std::vector<RankFacts>& ranks, const std::string& part) {
    EXPECT_EQ(count(ranks, kOnGpus, Weight::problem, part), 1) << part;
    EXPECT_EQ(count(ranks, {WantedJob::Device::cpu}, Weight::problem, part), 0) << part;
  };
  stops(with([](RankFacts& r) { r.build.cuda = ""; }), "built without CUDA");
  stops(with([](RankFacts& r) { r.gpu = without("libcuda.so.1: cannot open"); }), "libcuda.so.1: cannot open");
  stops(with([](RankFacts& r) { r.gpu.gpus.clear(); }), "CUDA_VISIBLE_DEVICES");
  stops(with([](RankFacts& r) { r.build.cuda = "13.0.88"; }), "goes up to CUDA 12.8");
  stops(with([](RankFacts& r) {
          r.gpu.gpus.resize(4);
          r.gpu.gpus[3].capability = 70;
        }),
        "GPU 3 (H100) has compute capability 7.0");
  stops(with([](RankFacts& r) { r.gpu.gpus.resize(3); }), "4 ranks, and rank 3 sees no GPU that no other has, of 3");
  // Where the batch system gives each rank a GPU of its own, all is well.
  EXPECT_EQ(
      count(with([](RankFacts& r) { r.gpu.gpus = {r.gpu.gpus[r.mpi.local_rank]}; }), kOnGpus, Weight::problem, ""), 0);
  // A driver that is newer is well, and so is a GPU of a later step of an architecture that is built for.
  EXPECT_EQ(count(with([](RankFacts& r) { r.gpu.cuda = 13000; }), kOnGpus, Weight::problem, ""), 0);
  EXPECT_EQ(count(with([](RankFacts& r) { r.gpu.gpus[0].capability = 86; }), kOnGpus, Weight::note, "GPU 0"), 0);
  EXPECT_EQ(count(with([](RankFacts& r) { r.gpu.gpus[0].capability = 120; }), kOnGpus, Weight::note, "translates"), 1);
}

TEST(Diagnose, WithoutGpusAnyJobRunsOnTheProcessor) {
  auto ranks = cluster(1, 2);
  for (RankFacts& rank : ranks) rank.gpu = without("libcuda.so.1: cannot open");
  EXPECT_TRUE(diagnose(ranks, kAny).empty());
}

TEST(Diagnose, SharedGpus) {
  auto ranks = cluster(1, 4);
  for (RankFacts& rank : ranks) {
    rank.gpu.gpus.resize(1);
    rank.gpu.links.assign(1, {""});
    rank.gpu.peers.assign(1, {true});
  }
  const WantedJob shared{WantedJob::Device::cuda, true};
  EXPECT_EQ(count(ranks, shared, Weight::problem, ""), 0);
  for (RankFacts& rank : ranks) rank.gpu.gpus[0].compute_mode = "exclusive";
  EXPECT_EQ(count(ranks, shared, Weight::problem, "for one process"), 1);
}

TEST(Diagnose, WhatSlowsGpus) {
  auto ranks = cluster(1, 8);
  ranks[0].gpu.gpus[2].free = 30;
  ranks[0].gpu.gpus[3].pcie_width = 8;
  ranks[0].gpu.gpus[4].mig = true;
  ranks[0].gpu.peers[1][5] = false;
  ranks[0].gpu.links[1][5] = "SYS";
  ranks[0].host.environment = {{"NCCL_P2P_DISABLE", "1"}};
  EXPECT_EQ(count(ranks, kOnGpus, Weight::problem, ""), 0);
  EXPECT_EQ(count(ranks, kOnGpus, Weight::warning, "GPU 2"), 1);
  EXPECT_EQ(count(ranks, kOnGpus, Weight::warning, "GPU 3"), 1);
  EXPECT_EQ(count(ranks, kOnGpus, Weight::warning, "GPU 4"), 1);
  EXPECT_EQ(count(ranks, kOnGpus, Weight::warning, "can't read each other's memory"), 1);
  EXPECT_EQ(count(ranks, kOnGpus, Weight::warning, "NCCL_P2P_DISABLE=1"), 1);
  EXPECT_EQ(count(ranks, kOnGpus, Weight::note, "NV18, SYS"), 1);
}

TEST(Diagnose, WhetherGpusExchangeSmallMessagesByThemselves) {
  EXPECT_EQ(count(cluster(2, 8), kOnGpus, Weight::note, "by themselves"), 0);
  const auto why = [](auto change, const std::string& text) {
    auto ranks = cluster(1, 8);
    for (RankFacts& rank : ranks) change(rank);
    return count(ranks, kOnGpus, Weight::note, "can't exchange small messages by themselves (--low-latency): " + text);
  };
  EXPECT_EQ(why([](RankFacts& r) { r.nccl.version = 22703; }, "it takes NCCL 2.28 or later, and 2.27.3 is loaded"), 1);
  EXPECT_EQ(why([](RankFacts& r) { r.nccl.version = 23001; }, "built with NCCL 2.28.9, and 2.30.1 is loaded"), 1);
  EXPECT_EQ(why([](RankFacts& r) { r.gpu.peers[1][5] = false; }, "some GPUs can't read"), 1);
  auto shared = cluster(1, 8);
  for (RankFacts& rank : shared) rank.gpu.gpus.resize(4);
  EXPECT_EQ(count(shared, {WantedJob::Device::cuda, true}, Weight::note, "by themselves (--low-latency): ranks share"),
            1);
  EXPECT_EQ(why([](RankFacts& r) { r.host.environment = {{"NCCL_CUMEM_ENABLE", "0"}}; }, "NCCL_CUMEM_ENABLE=0"), 1);
}

TEST(Diagnose, LimitsOfTheHost) {
  auto ranks = cluster(2, 8);
  ranks[0].host.shared_memory_free = 64 << 20;
  ranks[0].host.locked_memory = 64 << 10;
  ranks[8].host.open_files = 300;
  EXPECT_EQ(count(ranks, kAny, Weight::warning, "host host0: /dev/shm has 64.0 MiB free for 8 ranks"), 1);
  EXPECT_EQ(count(ranks, kAny, Weight::warning, "host host0: a process may lock 64.0 KiB"), 1);
  EXPECT_EQ(count(ranks, kAny, Weight::warning, "host host1: a process may open 300 files"), 1);
}

TEST(Diagnose, MoreRanksThanCores) {
  auto ranks = cluster(1, 8);
  for (RankFacts& rank : ranks) rank.host.cores = rank.host.usable_cores = 4;
  EXPECT_EQ(count(ranks, kAny, Weight::warning, "8 ranks on 4 cores"), 1);
  // Bound to cores of their own they have enough.
  for (RankFacts& rank : ranks) rank.host.cores = 8, rank.host.usable_cores = 1;
  EXPECT_EQ(count(ranks, kAny, Weight::warning, ""), 0);
  for (RankFacts& rank : ranks) rank.host.cpu_quota = 2;
  EXPECT_EQ(count(ranks, kAny, Weight::warning, "may use 2.0 cores"), 1);
}

TEST(Diagnose, NetworksThatMisleadRanks) {
  auto ranks = cluster(2, 2);
  for (RankFacts& rank : ranks) {
    rank.host.rdma.clear();
    rank.host.interfaces.push_back({"docker0", "172.17.0.1", 0});
  }
  EXPECT_EQ(count(ranks, kAny, Weight::warning, "several interfaces are up (eth0, docker0)"), 2);
  for (RankFacts& rank : ranks) rank.host.environment = {{"NCCL_SOCKET_IFNAME", "eth0"}};
  EXPECT_EQ(count(ranks, kAny, Weight::warning, ""), 0);
  for (RankFacts& rank : ranks) rank.host.environment = {{"NCCL_SOCKET_IFNAME", "ib0"}};
  EXPECT_EQ(count(ranks, kAny, Weight::problem, "NCCL_SOCKET_IFNAME=ib0, and no such interface is up"), 2);
}

}  // namespace
}  // namespace coterie
