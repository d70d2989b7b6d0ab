// The communicator over NCCL. Its own header so that tests can make the slots small.
#pragma once

#include "comm/destroyed_by.hpp"
#include "comm/nccl.hpp"
#include "comm/roll_call.hpp"
#include "comm/slot_exchange.hpp"
#include "comm/stamp.hpp"

#include <cuda_runtime.h>
#include <nccl.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace coterie {

/// How much bulk the next message of a pair of ranks, in one direction, is expected to have: from what the last ones
/// had, so that both ends expect the same.
class ExpectedBulk {
 public:
  void came(std::uint64_t bytes) noexcept { last_[next_++ % last_.size()] = bytes; }
  /// Some power of two up to kLeastBulk that the last few fit; 0 where one of them was longer than that.
  [[nodiscard]] std::size_t bytes() const noexcept;

 private:
  std::array<std::uint64_t, 4> last_{};
  std::size_t next_ = 0;
};

/// The heads of messages travel through the hosts' memory, for hosts to read; the bulk stays in that of the GPUs. In
/// one group of sends and receives go the first bytes of each head, in a slot of one size for every pair of ranks, and
/// beside it the bulk, in one of the size that both ends expect. What doesn't fit goes on in further groups, of the
/// sizes that the headers in the slots say: what is left of heads, bulk, weights. NCCL keeps the order of each pair's
/// messages, and the stamp in the header tells whether both mean the same collective. Decode steps fit their slots: one
/// group of sizes that are known before.
///
/// The host waits for heads alone. The groups wait for what the GPU writes to messages, and what it then reads waits
/// for them, on the GPU.
///
/// Among ranks whose GPUs reach one another's memory the slots may go by a SlotExchange instead: which way they go
/// depends on who takes part alone, so that all who do agree, whatever the sizes.
class NcclCommunicator final : public Communicator {
 public:
  /// `slot`: bytes, the same on all ranks. Collective.
  NcclCommunicator(MpiSession& session, const NcclOptions& options, std::size_t slot);
  ~NcclCommunicator() override;
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  [[nodiscard]] int rank() const noexcept override { return mpi_->rank(); }
  [[nodiscard]] int ranks() const noexcept override { return mpi_->ranks(); }
  [[nodiscard]] std::span<const int> node_of_rank() const noexcept override { return node_of_rank_; }
  [[nodiscard]] bool reaches_devices() const noexcept override { return true; }
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                               const Place& place) override {
    return mpi_->all_gather(mine, place);
  }
  void begin(Outbox outbox, const Place& place) override;
  [[nodiscard]] bool progress() override;
  [[nodiscard]] Inbox& wait_for_rows() override;
  [[nodiscard]] Inbox finish() override;
  /// Or freeing memory of the GPU would wait for peers that may never come.
  void abandon() noexcept override {
    if (stage_ != Stage::idle) leave();
  }
  [[nodiscard]] const LowLatencyFound& low_latency() const noexcept { return low_latency_; }

 private:
  /// What is under way, in this order; nobody but the GPU waits for what is trailing.
  enum class Stage { starting, slots, heads, rows, weights, trailing, idle };
  using Clock = std::chrono::steady_clock;
  using Nccl = std::unique_ptr<ncclComm, DestroyedBy<ncclCommAbort>>;  ///< aborted unless it ended in good order
  using Stream = std::unique_ptr<CUstream_st, DestroyedBy<cudaStreamDestroy>>;
  using Pinned = std::unique_ptr<std::byte, DestroyedBy<cudaFreeHost>>;
  using OnGpu = std::unique_ptr<std::byte, DestroyedBy<cudaFree>>;
  struct Peer {
    bool takes_part = false;  ///< in the exchange under way
    ExpectedBulk sent, received;
    std::size_t sent_slot = 0, received_slot = 0;  ///< of bulk, in the exchange under way
    Stamp last_seen;
    std::optional<std::string> answer;  ///< to this rank's question where it stands
  };
  /// What the GPU may read and write while an exchange is under way.
  struct Buffers {
    Pinned sent, received;                ///< (ranks, slot): the first bytes of heads
    OnGpu nothing;                        ///< kLeastBulk bytes, that fill the slot of a message without bulk
    std::vector<MessageMemory> in_slots;  ///< (ranks): bulk that came
    Outbox outbox;
    Inbox inbox;
  };

  void start(MpiSession& session, const NcclOptions& options);
  void find_low_latency(LowLatency wanted);
  /// Seconds of an exchange of slots, one way or the other.
  [[nodiscard]] double time_slots(bool fast);
  void drop_fast_slots(const Place& place);
  void end() noexcept;
  /// Lets nothing on this GPU wait for peers any longer.
  void leave() noexcept;
  void open(const Place& place, Stage stage);
  [[nodiscard]] std::byte* slot_of(const Pinned& slots, int peer) const { return slots.get() + peer * slot_; }
  void send(const DeviceBytes& bytes, int peer);
  void receive(const DeviceBytes& bytes, int peer);
  void send_slots(bool fast);
  /// In a group, or in what there is that is faster.
  void send(std::span<const Slot> slots, bool fast);
  [[nodiscard]] bool fast_among_these() const;
  void take_slots();
  /// What of a message doesn't go in slots: of its head, of the bulk, or of that the weights. Its bulk had this slot.
  [[nodiscard]] DeviceBytes rest(Message& message, std::size_t bulk_slot, Stage of) const;
  /// Sends and receives that. Whether there is any.
  [[nodiscard]] bool send_rest(Stage of);
  /// Until this stage is behind.
  void wait(Stage last);
  /// Whether NCCL has put on the stream what it was given last; whether that is done.
  [[nodiscard]] bool is_launched();
  [[nodiscard]] bool is_done();
  void listen();
  void hear(int peer, const Notice& notice);
  [[noreturn]] void time_out();
  [[noreturn]] void give_up(const std::string& why);
  void check(ncclResult_t result, const char* what);
  void check(cudaError_t error, const char* what);
  [[nodiscard]] bool came(int peer) const;

  std::unique_ptr<Communicator> mpi_;
  RollCall* roll_call_;  ///< the session's
  int number_;           ///< of this communicator among those of the session
  std::chrono::duration<double> timeout_;
  std::size_t slot_;
  std::vector<int> node_of_rank_;

  Stage stage_ = Stage::idle;  ///< stays where a collective fails
  Clock::time_point trailing_since_;
  bool fresh_bulk_ = false;  ///< was taken for what comes
  bool long_heads_ = false;  ///< of the exchange under way, on this rank
  bool late_weights_ = false;
  Stamp stamp_;              ///< of the collective under way
  std::vector<Peer> peers_;  ///< (ranks)
  std::unique_ptr<Buffers> buffers_ = std::make_unique<Buffers>();
  Stream stream_;
  Nccl nccl_;
  LowLatencyFound low_latency_;
  std::unique_ptr<SlotExchange> fast_slots_;  ///< where it is used; goes before NCCL does
  bool fast_ = false;                         ///< slots are under way by it
};

}  // namespace coterie
