#include "comm/message_memory.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace coterie {
namespace {

constexpr std::uint64_t kAlign = 64;
constexpr std::uint64_t kSmall = 1 << 10;       // bytes; below, the C library keeps freed memory at hand itself
constexpr std::uint64_t kMostIdle = 512 << 20;  // bytes kept while no message uses them

/// The size of the block for a message: few sizes, so that blocks fit again, and at most a quarter larger.
std::uint64_t block_of(std::uint64_t bytes) {
  const std::uint64_t step = bytes < kSmall ? kAlign : std::max(kAlign, std::bit_floor(bytes) / 4);
  bytes = std::max(bytes, kAlign);
  return (bytes + step - 1) / step * step;
}

struct Idle {
  std::mutex mutex;
  std::map<std::uint64_t, std::vector<std::byte*>> blocks;  // by size
  std::uint64_t bytes = 0;
};

/// Never destroyed, so that messages may outlive it.
Idle& idle() {
  static Idle& instance = *new Idle;
  return instance;
}

}  // namespace

std::byte* take_message_memory(std::uint64_t bytes) {
  const std::uint64_t block = block_of(bytes);
  if (block >= kSmall) {
    const std::lock_guard lock(idle().mutex);
    if (auto& blocks = idle().blocks[block]; !blocks.empty()) {
      std::byte* memory = blocks.back();
      blocks.pop_back();
      idle().bytes -= block;
      return memory;
    }
  }
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlign, block));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void give_message_memory(std::byte* memory, std::uint64_t bytes) noexcept {
  const std::uint64_t block = block_of(bytes);
  if (block >= kSmall) {
    const std::lock_guard lock(idle().mutex);
    if (idle().bytes + block <= kMostIdle) {
      try {
        idle().blocks[block].push_back(memory);
        idle().bytes += block;
        return;
      } catch (const std::bad_alloc&) {
        // Then it is freed.
      }
    }
  }
  std::free(memory);
}

}  // namespace coterie
