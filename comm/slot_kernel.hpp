// The kernel of an exchange of slots, and what it finds in the ranks' windows.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace coterie {

/// What stands in front of a slot in a window. A message has come when `number` is its own.
struct alignas(128) SlotFront {
  std::uint64_t number;
  std::uint64_t bytes;
  std::uint64_t bulk_bytes;
};

/// A message to a peer and one from it, with the same number.
struct SlotTransfer {
  std::uint64_t number = 0;         ///< of this exchange among those with the peer, from 1 on
  const std::byte* sent = nullptr;  ///< (bytes)
  std::byte* received = nullptr;
  std::byte* window = nullptr;  ///< the peer's
  const std::byte* bulk_sent = nullptr;
  std::byte* bulk_received = nullptr;
  std::uint32_t bytes = 0;  ///< a multiple of 16
  std::uint32_t bulk_bytes = 0;
  std::uint32_t peer = 0;  ///< of the team
};

constexpr std::size_t kMostTransfers = 60;  // all of them fit into a kernel's parameters

/// Where the slots of a team of ranks are in each one's window.
struct SlotLayout {
  std::size_t stride = 0;  ///< bytes of a slot with its front and bulk
  std::size_t bulk = 0;    ///< where that begins, behind the front's first byte
  std::uint32_t team = 0;  ///< ranks
  [[nodiscard]] __host__ __device__ std::size_t at(std::uint64_t number, std::uint32_t sender) const {
    return alignof(SlotFront) + (number % 2 * team + sender) * stride;
  }
};

struct SlotTransfers {
  SlotTransfer transfers[kMostTransfers];
  std::uint32_t count = 0;
  std::uint32_t rank = 0;  ///< this one, of the team
  SlotLayout layout;
  std::byte* window = nullptr;     ///< this rank's; at its front the tickets taken so far, two for each transfer
  std::uint32_t first_ticket = 0;  ///< of this exchange
  /// In the host's memory: not 0 when nobody is to wait any longer; (team): become the transfers' numbers.
  std::uint64_t* stop = nullptr;
  std::uint64_t* is_sent = nullptr;
  std::uint64_t* has_come = nullptr;
};

/// Enqueues it. Returns an error of the launch.
[[nodiscard]] cudaError_t exchange_slots(const SlotTransfers& slots, cudaStream_t stream);

}  // namespace coterie
