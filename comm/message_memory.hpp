// The memory of messages, kept for the next ones: the pages of fresh memory cost more time than filling them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace coterie {

/// `bytes` of memory aligned to 64 bytes, contents undefined. Safe to call from any thread. Throws std::bad_alloc.
[[nodiscard]] std::byte* take_message_memory(std::uint64_t bytes);
/// Gives back what `take_message_memory(bytes)` returned.
void give_message_memory(std::byte* memory, std::uint64_t bytes) noexcept;

}  // namespace coterie
