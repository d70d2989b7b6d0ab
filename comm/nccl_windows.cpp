#include "comm/destroyed_by.hpp"
#include "comm/slot_exchange.hpp"
#include "comm/slot_kernel.hpp"
#include "comm/window_kernel.hpp"

#include <nccl_device.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

namespace coterie {
namespace {

constexpr std::size_t kPage = 4096;        // bytes; windows are made of them
constexpr std::chrono::seconds kGrace{1};  // for a kernel to end that is told to
constexpr std::chrono::microseconds kNap{50};

constexpr std::size_t round_up(std::size_t bytes, std::size_t to) {
  return (bytes + to - 1) / to * to;
}

SlotLayout layout_of(std::size_t slot, std::size_t bulk, int ranks) {
  const std::size_t before = round_up(sizeof(SlotFront) + slot, alignof(SlotFront));
  return {before + round_up(bulk, alignof(SlotFront)), before, static_cast<std::uint32_t>(ranks)};
}
std::size_t window_bytes(const SlotLayout& layout) {
  return layout.at(1, layout.team);  // where one more would begin
}

struct Deregister {
  ncclComm_t nccl;
  void operator()(ncclWindow_t window) const noexcept { (void)ncclCommWindowDeregister(nccl, window); }
};
using Window = std::unique_ptr<std::remove_pointer_t<ncclWindow_t>, Deregister>;
using WindowMemory = std::unique_ptr<std::byte, DestroyedBy<ncclMemFree>>;
using Words = std::unique_ptr<std::uint64_t, DestroyedBy<cudaFreeHost>>;

std::uint64_t read(std::uint64_t& word) {
  return std::atomic_ref(word).load(std::memory_order_acquire);
}

class NcclWindows final : public SlotExchange {
 public:
  NcclWindows(const SlotExchangeOptions& options, WindowMemory memory)
      : stream_(options.stream),
        rank_(options.rank),
        slot_(options.slot),
        bulk_(options.bulk),
        memory_(std::move(memory)) {}
  ~NcclWindows() override {
    if (!words_ || read(stop_word()) == 0) return;
    // The kernel, or a peer's, may still use them.
    (void)window_.release();
    (void)memory_.release();
    (void)words_.release();
  }

  /// Finds the ranks whose windows this GPU reaches. Why it doesn't; empty: it does.
  [[nodiscard]] std::string open(Window window, ncclTeam_t team) {
    window_ = std::move(window);
    team_ = team;
    void* words = nullptr;
    if (const cudaError_t error = cudaMallocHost(&words, word_count() * sizeof(std::uint64_t)); error != cudaSuccess) {
      return std::string("pinned memory: ") + cudaGetErrorString(error);
    }
    words_.reset(static_cast<std::uint64_t*>(words));
    std::fill_n(words_.get(), word_count(), 0);
    layout_ = layout_of(slot_, bulk_, team_.nRanks);
    // The host learns the addresses where it will later learn what is done.
    cudaError_t error = open_window(window_.get(), window_bytes(layout_), layout_.team, &sent_word(0), stream_);
    if (error == cudaSuccess) error = cudaStreamSynchronize(stream_);
    if (error != cudaSuccess) return std::string("the windows' addresses: ") + cudaGetErrorString(error);
    for (int i = 0; i < team_.nRanks; ++i) windows_.push_back(std::bit_cast<std::byte*>((&sent_word(0))[i]));
    std::fill_n(words_.get(), word_count(), 0);
    numbers_.assign(windows_.size(), 0);
    return "";
  }

  [[nodiscard]] bool reaches(std::span<const int> peers) const override {
    return peers.size() <= kMostTransfers &&
           std::ranges::all_of(peers, [&](int peer) { return in_team(peer) >= 0 && in_team(peer) < team_.nRanks; });
  }

  [[nodiscard]] cudaError_t begin(std::span<const Slot> slots) override {
    SlotTransfers all;
    for (const Slot& slot : slots) {
      const int peer = in_team(slot.peer);
      all.transfers[all.count++] = {++numbers_[static_cast<std::size_t>(peer)],
                                    slot.sent.data(),
                                    slot.received,
                                    windows_[static_cast<std::size_t>(peer)],
                                    slot.bulk_sent.address(),
                                    slot.bulk_received.address(),
                                    static_cast<std::uint32_t>(slot.sent.size()),
                                    static_cast<std::uint32_t>(slot.bulk_sent.size()),
                                    static_cast<std::uint32_t>(peer)};
    }
    if (all.count == 0) return cudaSuccess;
    all.rank = static_cast<std::uint32_t>(team_.rank);
    all.layout = layout_;
    all.window = windows_[static_cast<std::size_t>(team_.rank)];
    all.first_ticket = std::exchange(tickets_, tickets_ + 2 * all.count);
    all.stop = &stop_word();
    all.is_sent = &sent_word(0);
    all.has_come = &come_word(0);
    return exchange_slots(all, stream_);
  }

  [[nodiscard]] bool is_done() const noexcept override {
    for (int i = 0; i < team_.nRanks; ++i) {
      const std::uint64_t number = numbers_[static_cast<std::size_t>(i)];
      if (read(sent_word(i)) != number || read(come_word(i)) != number) return false;
    }
    return true;
  }

  void stop() noexcept override {
    std::atomic_ref(stop_word()).store(1, std::memory_order_release);
    const auto limit = std::chrono::steady_clock::now() + kGrace;
    while (!is_done() && cudaStreamQuery(stream_) == cudaErrorNotReady && std::chrono::steady_clock::now() < limit) {
      std::this_thread::sleep_for(kNap);
    }
  }

 private:
  [[nodiscard]] int in_team(int peer) const { return team_.rank + peer - rank_; }
  [[nodiscard]] std::size_t word_count() const { return 1 + 2 * static_cast<std::size_t>(team_.nRanks); }
  [[nodiscard]] std::uint64_t& stop_word() const { return words_.get()[0]; }
  [[nodiscard]] std::uint64_t& sent_word(int peer) const { return words_.get()[1 + peer]; }
  [[nodiscard]] std::uint64_t& come_word(int peer) const { return words_.get()[1 + team_.nRanks + peer]; }

  cudaStream_t stream_;
  int rank_;
  std::size_t slot_, bulk_;
  SlotLayout layout_;
  ncclTeam_t team_{};  ///< ranks that follow one another, this one among them
  WindowMemory memory_;
  Window window_;
  std::vector<std::byte*> windows_;     ///< (team): addresses for the GPU
  std::vector<std::uint64_t> numbers_;  ///< (team): of the last exchange with each
  std::uint32_t tickets_ = 0;           ///< used so far
  Words words_;                         ///< that the host shares with the kernel
};

/// Where NCCL has no symmetric memory some versions give what they registered the memory by, which is the host's.
bool is_symmetric(ncclWindow_t window) {
  cudaPointerAttributes attributes{};
  return window != nullptr && cudaPointerGetAttributes(&attributes, window) == cudaSuccess &&
         attributes.type == cudaMemoryTypeDevice;
}

std::string version_text(int version) {
  return std::to_string(version / 10000) + '.' + std::to_string(version / 100 % 100);
}

/// The device's code of NCCL is part of this program, and must fit the library's.
std::string version_trouble() {
  int version = 0;
  if (ncclGetVersion(&version) != ncclSuccess) return "ncclGetVersion fails";
  if (version / 100 == NCCL_VERSION_CODE / 100) return "";
  return "built with NCCL " + version_text(NCCL_VERSION_CODE) + ", loaded NCCL " + version_text(version) +
         "; expected the same";
}

}  // namespace

MadeSlotExchange make_slot_exchange(const SlotExchangeOptions& options) {
  const std::size_t bytes = round_up(window_bytes(layout_of(options.slot, options.bulk, options.ranks)), kPage);
  WindowMemory memory;
  std::string trouble = version_trouble();
  if (trouble.empty()) {
    void* at = nullptr;
    const ncclResult_t result = ncclMemAlloc(&at, bytes);
    memory.reset(static_cast<std::byte*>(at));
    if (result != ncclSuccess) trouble = std::string("ncclMemAlloc: ") + ncclGetErrorString(result);
  }
  if (trouble = options.agree(trouble); !trouble.empty()) return {nullptr, trouble};

  ncclWindow_t made = nullptr;
  std::byte* const at = memory.get();
  auto windows = std::make_unique<NcclWindows>(options, std::move(memory));
  options.finish(ncclCommWindowRegister(options.nccl, at, bytes, &made, NCCL_WIN_COLL_SYMMETRIC),
                 "ncclCommWindowRegister");
  Window window(made, {options.nccl});
  if (!is_symmetric(made)) {
    trouble = "NCCL has no symmetric memory here: it takes GPUs that reach one another's memory, and its cuMem";
  } else if (const ncclTeam_t team = ncclTeamLsa(options.nccl); team.nRanks < 2) {
    trouble = "its GPU reaches no other rank's memory";
  } else {
    trouble = windows->open(std::move(window), team);
  }
  if (trouble = options.agree(trouble); !trouble.empty()) return {nullptr, trouble};
  return {std::move(windows), ""};
}

}  // namespace coterie
