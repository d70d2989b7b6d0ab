// A faster way for the slots of an exchange than a group of sends and receives: kernels that store into the peers'
// memory.
#pragma once

#include "comm/message.hpp"

#include <cuda_runtime.h>
#include <nccl.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace coterie {

/// What goes to a peer, and where what it sends is to be. Both are in memory that the GPU reads and writes.
struct Slot {
  int peer = 0;
  std::span<const std::byte> sent;  ///< a multiple of 16 bytes, at most a slot; stays until the exchange is done
  std::byte* received = nullptr;    ///< a slot; what is behind the message in it doesn't change
  DeviceBytes bulk_sent;            ///< the same, at most SlotExchangeOptions::bulk
  DeviceBytes bulk_received;        ///< as much as that
};

/// Exchanges follow one another: the next begins when the last is done. Between two ranks each brings both a slot.
class SlotExchange {
 public:
  SlotExchange() = default;
  virtual ~SlotExchange() = default;
  SlotExchange(const SlotExchange&) = delete;
  SlotExchange& operator=(const SlotExchange&) = delete;

  /// Whether this rank can exchange slots with all of these; their answer is the same.
  [[nodiscard]] virtual bool reaches(std::span<const int> peers) const = 0;
  /// Enqueues the exchange on the stream it was made for; waits for nobody. Every peer does the same with this rank.
  [[nodiscard]] virtual cudaError_t begin(std::span<const Slot> slots) = 0;
  /// Whether all that was begun is done; asks nobody, so that errors of the stream don't show.
  [[nodiscard]] virtual bool is_done() const noexcept = 0;
  /// Ends what is under way, done or not; afterwards only is_done() and the destructor may be called.
  virtual void stop() noexcept = 0;
};

struct SlotExchangeOptions {
  ncclComm_t nccl = nullptr;      ///< ready
  cudaStream_t stream = nullptr;  ///< outlives the result
  int rank = 0, ranks = 1;
  std::size_t slot = 0;  ///< bytes, a multiple of 16
  std::size_t bulk = 0;  ///< the same: that may go along
  /// Gives each rank the first reason that any of them has, in their order; empty if none has one. Collective.
  std::function<std::string(const std::string& reason)> agree;
  /// Throws unless a call of NCCL went well or is under way; then waits for its end.
  std::function<void(ncclResult_t result, const char* call)> finish;
};

struct MadeSlotExchange {
  std::unique_ptr<SlotExchange> exchange;
  std::string trouble;  ///< why there is none
};

/// Through NCCL's symmetric windows (NCCL user guide, "Device API"). Collective; all ranks get one, or none and the
/// same trouble.
[[nodiscard]] MadeSlotExchange make_slot_exchange(const SlotExchangeOptions& options);

}  // namespace coterie
