// The memory of messages, kept for the next ones: the pages of fresh memory cost more time than filling them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace coterie {

/// Where the memory comes from, for messages that a GPU reads and writes too.
struct MessageMemorySource {
  std::function<std::byte*(std::size_t bytes)> allocate;  ///< aligned to 64 bytes; throws std::bad_alloc
  std::function<void(std::byte* memory)> free;
  std::uint64_t least_kept = 0;        ///< bytes; smaller pieces are freed at once
  std::function<std::uint64_t()> now;  ///< a clock of the source's own; with it:
  /// Whether nobody reads any more what a message held that ended at `when`; until then it is not used again.
  std::function<bool(std::uint64_t when)> is_done;
};

/// While it lives, new messages are in memory of this source, before and afterwards in the C library's. What the source
/// refers to outlives the messages; `now` and `is_done` are not called once this is gone.
class MessageMemoryFrom {
 public:
  explicit MessageMemoryFrom(MessageMemorySource source);
  ~MessageMemoryFrom();
  MessageMemoryFrom(const MessageMemoryFrom&) = delete;
  MessageMemoryFrom& operator=(const MessageMemoryFrom&) = delete;
};

/// `bytes` of memory aligned to 64 bytes, contents undefined. Safe to call from any thread. Throws std::bad_alloc.
[[nodiscard]] std::byte* take_message_memory(std::uint64_t bytes);
/// Gives back what `take_message_memory(bytes)` returned.
void give_message_memory(std::byte* memory, std::uint64_t bytes) noexcept;

}  // namespace coterie
