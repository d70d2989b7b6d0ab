// The memory of messages, kept for the next ones: the pages of fresh memory cost more time than filling them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

struct CUstream_st;

namespace coterie {

/// Memory of one kind.
struct MemorySource {
  std::function<std::byte*(std::size_t bytes)> allocate;  ///< aligned to 64 bytes; throws std::bad_alloc
  std::function<void(std::byte* memory)> free;
  std::uint64_t least_kept = 0;  ///< bytes; smaller pieces are freed at once
};

/// Where messages lie that a device reads and writes too, and how its work and a transport's wait for each other.
struct MessageMemorySource {
  MemorySource host;                        ///< the host reaches it
  std::optional<MemorySource> bulk;         ///< for the bulk alone; none: messages are in one piece
  std::function<std::uint64_t()> now = {};  ///< a clock of the source's own; with it:
  /// Whether nobody reads any more what a message held that ended at `when`; until then it is not used again.
  std::function<bool(std::uint64_t when)> is_done = {};
  /// The host, or what a stream is given from here on, waits for what the device was given so far.
  std::function<void()> wait = {};
  std::function<void(CUstream_st* stream)> precede = {};
  /// What the device is given from here on waits for what the stream was given so far.
  std::function<void(CUstream_st* stream)> follow = {};
};

/// While it lives, new messages are in memory of this source, before and afterwards in the C library's. What the source
/// refers to outlives the messages; what concerns time and streams is not called once this is gone.
class MessageMemoryFrom {
 public:
  explicit MessageMemoryFrom(MessageMemorySource source);
  ~MessageMemoryFrom();
  MessageMemoryFrom(const MessageMemoryFrom&) = delete;
  MessageMemoryFrom& operator=(const MessageMemoryFrom&) = delete;
};

/// Bulk apart has at least so many bytes, whatever its size.
inline constexpr std::uint64_t kLeastBulk = 256 << 10;

class MessagePool;
/// Gives memory back where it came from, whatever the source is by then. Safe on any thread.
struct GiveMessageMemoryBack {
  std::shared_ptr<MessagePool> pool;
  std::uint64_t bytes = 0;
  bool fresh = false;  ///< it was no message's before: what the device was given so far may still mean its place
  void operator()(std::byte* memory) const noexcept;
};
using MessageMemory = std::unique_ptr<std::byte, GiveMessageMemoryBack>;

/// `bytes` of memory aligned to 64 bytes, contents undefined. Safe to call from any thread. Throws std::bad_alloc.
[[nodiscard]] MessageMemory take_message_memory(std::uint64_t bytes);
/// The same for the bulk of a message; none where messages are in one piece.
[[nodiscard]] MessageMemory take_bulk_memory(std::uint64_t bytes);

/// For transports, before messages are sent or received into, and before what arrived is handed on: as the source's
/// functions; nothing where messages are the host's alone.
void wait_for_message_work();
void precede_transport(CUstream_st* stream);
void follow_transport(CUstream_st* stream);

}  // namespace coterie
