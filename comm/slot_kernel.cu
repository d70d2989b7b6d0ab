// An exchange of slots in one kernel. Half of its blocks send a message each: they copy it into the peer's window and
// release its number in front of it. The other half wait for a number each, and copy what lies behind it out of this
// rank's window. Which block does what is decided in the order in which they start, so that no block waits before all
// that send have started; as those wait for nobody, blocks that don't fit onto the GPU at once hold nobody up.
//
// A message lies in the slot of its sender and of its number's parity. Nothing is overwritten before it was read: rank
// s writes message n + 2 to rank r after it acquired the number of r's message n + 1 to it, in a kernel before. r
// released that after its kernel for message n had ended, which had copied s's message n out. Numbers count each pair's
// exchanges, so that exchanges among fewer ranks, or another way, change nothing.
#include "comm/slot_kernel.hpp"
#include "comm/system_memory.hpp"

namespace coterie {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kLooks = 64;  // at a number, before one at the host's memory, which is far

__device__ void copy(const std::byte* from, std::byte* to, std::uint64_t bytes) {
  constexpr unsigned at_once = 4;  // loads under way
  const auto* source = reinterpret_cast<const uint4*>(from);
  auto* target = reinterpret_cast<uint4*>(to);
  const std::uint64_t count = bytes / sizeof(uint4);
  for (std::uint64_t first = threadIdx.x; first < count; first += at_once * kThreads) {
    uint4 parts[at_once];
    for (unsigned i = 0; i < at_once; ++i) {
      if (first + i * kThreads < count) parts[i] = source[first + i * kThreads];
    }
    for (unsigned i = 0; i < at_once; ++i) {
      if (first + i * kThreads < count) target[first + i * kThreads] = parts[i];
    }
  }
}

__device__ void send(const SlotTransfers& slots, const SlotTransfer& to) {
  auto* front = reinterpret_cast<SlotFront*>(to.window + slots.layout.at(to.number, slots.rank));
  copy(to.sent, reinterpret_cast<std::byte*>(front + 1), to.bytes);
  copy(to.bulk_sent, reinterpret_cast<std::byte*>(front) + slots.layout.bulk, to.bulk_bytes);
  if (threadIdx.x == 0) {
    front->bytes = to.bytes;
    front->bulk_bytes = to.bulk_bytes;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  release_number(&front->number, to.number);
  release_number(&slots.is_sent[to.peer], to.number);
}

/// Whether it came.
__device__ bool wait_for(const SlotFront& front, std::uint64_t number, const std::uint64_t* stop) {
  for (unsigned looks = 1; acquire_number(&front.number) != number; ++looks) {
    if (looks % kLooks == 0 && acquire_number(stop) != 0) return false;
    look_away();
  }
  return true;
}

__device__ void receive(const SlotTransfers& slots, const SlotTransfer& from) {
  __shared__ bool has_come;
  const auto* front = reinterpret_cast<const SlotFront*>(slots.window + slots.layout.at(from.number, from.peer));
  if (threadIdx.x == 0) has_come = wait_for(*front, from.number, slots.stop);
  __syncthreads();
  if (!has_come) return;
  copy(reinterpret_cast<const std::byte*>(front + 1), from.received, front->bytes);
  copy(reinterpret_cast<const std::byte*>(front) + slots.layout.bulk, from.bulk_received, front->bulk_bytes);
  __syncthreads();
  if (threadIdx.x == 0) release_number(&slots.has_come[from.peer], from.number);
}

__global__ void __launch_bounds__(kThreads) send_and_receive(const __grid_constant__ SlotTransfers slots) {
  __shared__ unsigned ticket;
  if (threadIdx.x == 0) ticket = atomicAdd(reinterpret_cast<unsigned*>(slots.window), 1U) - slots.first_ticket;
  __syncthreads();
  if (ticket < slots.count) {
    send(slots, slots.transfers[ticket]);
  } else {
    receive(slots, slots.transfers[ticket - slots.count]);
  }
}

}  // namespace

cudaError_t exchange_slots(const SlotTransfers& slots, cudaStream_t stream) {
  return start(send_and_receive, 2 * slots.count, kThreads, stream, slots);
}

}  // namespace coterie
