#include "comm/message_memory.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <utility>
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

std::byte* from_library(std::size_t bytes) {
  auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlign, bytes));
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

using Source = std::shared_ptr<const MessageMemorySource>;

Source library() {
  static const Source& source = *new Source(std::make_shared<MessageMemorySource>(
      MessageMemorySource{from_library, [](std::byte* memory) { std::free(memory); }, kSmall, {}, {}}));
  return source;
}

/// In the first kAlign bytes of a block.
struct Front {
  Source source;            ///< where it came from, as messages may live on when others come from elsewhere
  std::uint64_t ended = 0;  ///< when the last message in it did
};

Front& front_of(std::byte* block) {
  static_assert(sizeof(Front) <= kAlign);
  return *std::launder(reinterpret_cast<Front*>(block));
}

void free_block(std::byte* block) noexcept {
  const Source source = std::exchange(front_of(block).source, nullptr);
  std::destroy_at(&front_of(block));
  source->free(block);
}

struct Idle {
  std::mutex mutex;
  Source source = library();
  std::map<std::uint64_t, std::vector<std::byte*>> blocks;  // by size, all of this source
  std::uint64_t bytes = 0;

  void change(Source to) {
    const std::lock_guard lock(mutex);
    for (const auto& [size, some] : blocks) {
      for (std::byte* block : some) free_block(block);
    }
    blocks.clear();
    bytes = 0;
    source = std::move(to);
  }

  /// Nothing if there is none.
  std::byte* take(std::uint64_t size) {
    if (size < source->least_kept) return nullptr;
    auto& some = blocks[size];
    const auto found = std::find_if(some.rbegin(), some.rend(), [&](std::byte* block) {
      return !source->is_done || source->is_done(front_of(block).ended);
    });
    if (found == some.rend()) return nullptr;
    std::byte* block = *found;
    some.erase(std::next(found).base());
    bytes -= size;
    return block;
  }

  /// Whether it is kept.
  bool keep(std::byte* block, std::uint64_t size) noexcept {
    if (front_of(block).source != source || size < source->least_kept || bytes + size > kMostIdle) return false;
    try {
      if (source->now) front_of(block).ended = source->now();
      blocks[size].push_back(block);
    } catch (const std::exception&) {
      return false;
    }
    bytes += size;
    return true;
  }
};

/// Never destroyed, so that messages may outlive it.
Idle& idle() {
  static Idle& instance = *new Idle;
  return instance;
}

}  // namespace

MessageMemoryFrom::MessageMemoryFrom(MessageMemorySource source) {
  idle().change(std::make_shared<MessageMemorySource>(std::move(source)));
}

MessageMemoryFrom::~MessageMemoryFrom() {
  idle().change(library());
}

std::byte* take_message_memory(std::uint64_t bytes) {
  const std::uint64_t size = block_of(bytes + kAlign);
  Source source;
  std::byte* block = nullptr;
  {
    const std::lock_guard lock(idle().mutex);
    source = idle().source;
    block = idle().take(size);
  }
  if (block == nullptr) {
    block = source->allocate(size);
    std::construct_at(reinterpret_cast<Front*>(block), std::move(source));
  }
  return block + kAlign;
}

void give_message_memory(std::byte* memory, std::uint64_t bytes) noexcept {
  std::byte* block = memory - kAlign;
  const bool kept = [&] {
    const std::lock_guard lock(idle().mutex);
    return idle().keep(block, block_of(bytes + kAlign));
  }();
  if (!kept) free_block(block);
}

}  // namespace coterie
