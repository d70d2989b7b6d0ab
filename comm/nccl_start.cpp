// The start and the end of an NCCL communicator.
#include "comm/nccl_communicator.hpp"
#include "comm/nccl_sharing.hpp"
#include "comm/nvlink_domain.hpp"

#include <stdlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <set>
#include <utility>

namespace coterie {
namespace {

constexpr int kTrials = 50;                     // exchanges of slots that are timed, of each way
constexpr std::size_t kTrialMessage = 2 << 10;  // bytes

/// What a rank tells the others.
struct Introduction {
  ncclUniqueId id{};  ///< rank 0's: where they meet
  int version = 0;    ///< of NCCL
  std::array<char, 64> domain{};
};

}  // namespace

void NcclCommunicator::start(MpiSession& session, const NcclOptions& options) {
  const Place place{"NCCL's start"};
  int version = 0;
  check(ncclGetVersion(&version), "ncclGetVersion");  // reads no environment yet
  if (options.share_gpu) {
    const auto nodes = node_of_rank();
    const bool one_host = std::set<int>(nodes.begin(), nodes.end()).size() == 1;
    for (const auto& [name, value] : environment_to_share_gpus(version, rank(), one_host)) {
      ::setenv(name.c_str(), value.c_str(), 0);
    }
  }
  Introduction mine;
  mine.version = version;
  if (rank() == 0) check(ncclGetUniqueId(&mine.id), "ncclGetUniqueId");
  check(cudaSetDevice(options.gpu), "choosing the GPU");
  std::array<char, 32> bus_id{};
  check(cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), options.gpu), "the GPU's PCI id");
  nvlink_domain(bus_id.data()).copy(mine.domain.data(), mine.domain.size() - 1);

  std::vector<Introduction> all;
  std::vector<std::string> domains;
  for (const auto& bytes : mpi_->all_gather(std::as_bytes(std::span(&mine, 1)), place)) {
    std::memcpy(&all.emplace_back(), bytes.data(), sizeof(Introduction));
    domains.emplace_back(all.back().domain.data());
  }
  const Introduction& first = all.front();
  if (first.version != mine.version) {
    throw CommError("NCCL: rank " + std::to_string(rank()) + " has version " + std::to_string(mine.version) +
                    ", rank 0 has " + std::to_string(first.version) + "; load the same on every host");
  }
  if (options.comm.ranks_per_node == 0) node_of_rank_ = nodes_of(mpi_->node_of_rank(), domains);

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  stream_.reset(stream);
  for (Pinned* slots : {&buffers_->sent, &buffers_->received}) {
    void* memory = nullptr;
    check(cudaMallocHost(&memory, static_cast<std::size_t>(ranks()) * slot_), "pinned memory");
    std::memset(memory, 0, static_cast<std::size_t>(ranks()) * slot_);
    slots->reset(static_cast<std::byte*>(memory));
  }
  void* nothing = nullptr;
  check(cudaMalloc(&nothing, kLeastBulk), "memory of the GPU");
  buffers_->nothing.reset(static_cast<std::byte*>(nothing));
  buffers_->in_slots.resize(static_cast<std::size_t>(ranks()));

  open(place, Stage::starting);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t made = nullptr;
  const ncclResult_t result = ncclCommInitRankConfig(&made, ranks(), first.id, session.rank(), &config);
  nccl_.reset(made);
  check(result, "ncclCommInitRankConfig");
  wait(Stage::weights);
  if (options.low_latency != LowLatency::off) find_low_latency(options.low_latency);
}

void NcclCommunicator::find_low_latency(LowLatency wanted) {
  const Place place{"the start of low latency"};
  const auto agree = [&](const std::string& mine) {
    const auto all = mpi_->all_gather(std::as_bytes(std::span(mine)), place);
    for (std::size_t r = 0; r < all.size(); ++r) {
      if (all[r].empty()) continue;
      return "rank " + std::to_string(r) + ": " +
             std::string(reinterpret_cast<const char*>(all[r].data()), all[r].size());
    }
    return std::string();
  };
  const auto finish = [&](ncclResult_t result, const char* call) {
    open(place, Stage::starting);
    check(result, call);
    wait(Stage::weights);
  };
  auto made = make_slot_exchange({nccl_.get(), stream_.get(), rank(), ranks(), slot_, kLeastBulk, agree, finish});
  fast_slots_ = std::move(made.exchange);
  low_latency_.trouble = made.trouble;
  low_latency_.used = fast_slots_ != nullptr;
  if (!fast_slots_ || wanted == LowLatency::on) return;

  std::array<double, 2> mine{};  // seconds: by NCCL, without it
  for (int trial = -1; trial < kTrials; ++trial) {
    for (const bool fast : {false, true}) {
      const double seconds = time_slots(fast);
      if (trial >= 0) mine[fast ? 1 : 0] += seconds / kTrials;
    }
  }
  std::array<double, 2> slowest{};
  for (const auto& bytes : mpi_->all_gather(std::as_bytes(std::span(mine)), place)) {
    std::array<double, 2> theirs{};
    std::memcpy(theirs.data(), bytes.data(), sizeof theirs);
    for (std::size_t i = 0; i < theirs.size(); ++i) slowest[i] = std::max(slowest[i], theirs[i]);
  }
  low_latency_.seconds_without = slowest[0];
  low_latency_.seconds = slowest[1];
  low_latency_.used = low_latency_.seconds < low_latency_.seconds_without;
  if (!low_latency_.used) drop_fast_slots(place);
}

void NcclCommunicator::drop_fast_slots(const Place& place) {
  open(place, Stage::starting);
  fast_slots_.reset();
  wait(Stage::weights);
}

double NcclCommunicator::time_slots(bool fast) {
  open({"the trial of low latency"}, Stage::starting);
  std::vector<Slot> slots;
  for (int peer = 0; peer < ranks(); ++peer) {
    const std::span message(slot_of(buffers_->sent, peer), std::min(slot_, kTrialMessage));
    if (peer != rank() && fast_slots_->reaches(std::array{peer})) {
      slots.push_back({peer, message, slot_of(buffers_->received, peer), {}, {}});
    }
  }
  const auto begun = Clock::now();
  send(slots, fast);
  wait(Stage::weights);
  return std::chrono::duration<double>(Clock::now() - begun).count();
}

/// Waits for the other ranks, which end theirs too; one that doesn't is left behind.
void NcclCommunicator::end() noexcept {
  try {
    drop_fast_slots({"NCCL's end"});
    open({"NCCL's end"}, Stage::starting);
    check(ncclCommFinalize(nccl_.get()), "ncclCommFinalize");
    wait(Stage::weights);
    (void)ncclCommDestroy(nccl_.release());
  } catch (const std::exception&) {
    nccl_.reset();
  }
}

}  // namespace coterie
