#include "comm/message_memory.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <map>
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

/// The C library.
MessageMemorySource library() {
  const auto allocate = [](std::size_t bytes) {
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(kAlign, bytes));
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
  };
  return {{allocate, [](std::byte* memory) { std::free(memory); }, kSmall}, {}};
}

}  // namespace

/// Memory of one kind from one source: what no message uses is kept, while new messages come from there.
class MessagePool {
 public:
  MessagePool(MemorySource source, std::function<std::uint64_t()> now, std::function<bool(std::uint64_t)> is_done)
      : source_(std::move(source)), now_(std::move(now)), is_done_(std::move(is_done)) {}

  /// None if there is none that fits.
  [[nodiscard]] std::byte* take_kept(std::uint64_t bytes) {
    const std::uint64_t size = block_of(bytes);
    if (size < source_.least_kept) return nullptr;
    const std::lock_guard lock(mutex_);
    auto& some = blocks_[size];
    const auto found =
        std::find_if(some.rbegin(), some.rend(), [&](const Block& b) { return !is_done_ || is_done_(b.ended); });
    if (found == some.rend()) return nullptr;
    std::byte* const memory = found->memory;
    some.erase(std::next(found).base());
    idle_ -= size;
    return memory;
  }

  [[nodiscard]] std::byte* allocate(std::uint64_t bytes) { return source_.allocate(block_of(bytes)); }

  void give(std::byte* memory, std::uint64_t bytes) noexcept {
    if (!keep(memory, block_of(bytes))) source_.free(memory);
  }

  /// Frees what is kept, and keeps nothing more.
  void close() noexcept {
    const std::lock_guard lock(mutex_);
    open_ = false;
    for (const auto& [size, some] : blocks_) {
      for (const Block& block : some) source_.free(block.memory);
    }
    blocks_.clear();
  }

 private:
  struct Block {
    std::byte* memory;
    std::uint64_t ended;  ///< when the last message in it did
  };

  /// Whether it is kept.
  [[nodiscard]] bool keep(std::byte* memory, std::uint64_t size) noexcept {
    const std::lock_guard lock(mutex_);
    if (!open_ || size < source_.least_kept || idle_ + size > kMostIdle) return false;
    try {
      blocks_[size].push_back({memory, now_ ? now_() : 0});
    } catch (const std::exception&) {
      return false;
    }
    idle_ += size;
    return true;
  }

  const MemorySource source_;
  const std::function<std::uint64_t()> now_;
  const std::function<bool(std::uint64_t)> is_done_;
  std::mutex mutex_;
  bool open_ = true;
  std::map<std::uint64_t, std::vector<Block>> blocks_;  // by size
  std::uint64_t idle_ = 0;                              // bytes of them
};

namespace {

using Pool = std::shared_ptr<MessagePool>;

/// Where new messages come from.
struct Current {
  std::mutex mutex;
  MessageMemorySource source = library();
  Pool host = std::make_shared<MessagePool>(source.host, nullptr, nullptr);
  Pool bulk;  ///< none: messages are in one piece
};

/// Never destroyed, so that messages may outlive it.
Current& current() {
  static Current& instance = *new Current;
  return instance;
}

void change(MessageMemorySource to) {
  Pool host = std::make_shared<MessagePool>(to.host, to.now, to.is_done);
  Pool bulk = to.bulk ? std::make_shared<MessagePool>(*to.bulk, to.now, to.is_done) : nullptr;
  {
    const std::lock_guard lock(current().mutex);
    std::swap(current().source, to);
    std::swap(current().host, host);
    std::swap(current().bulk, bulk);
  }
  host->close();
  if (bulk) bulk->close();
}

MessageMemory take_from(Pool Current::*which, std::uint64_t bytes) {
  Pool pool;
  {
    const std::lock_guard lock(current().mutex);
    pool = current().*which;
  }
  if (!pool) return nullptr;
  std::byte* const kept = pool->take_kept(bytes);
  std::byte* const memory = kept != nullptr ? kept : pool->allocate(bytes);
  return {memory, {std::move(pool), bytes, kept == nullptr}};
}

template <class Function, class... Arguments>
void call(Function MessageMemorySource::*which, Arguments... arguments) {
  if (const Function& function = current().source.*which) function(arguments...);
}

}  // namespace

MessageMemoryFrom::MessageMemoryFrom(MessageMemorySource source) {
  change(std::move(source));
}

MessageMemoryFrom::~MessageMemoryFrom() {
  change(library());
}

void GiveMessageMemoryBack::operator()(std::byte* memory) const noexcept {
  pool->give(memory, bytes);
}

MessageMemory take_message_memory(std::uint64_t bytes) {
  return take_from(&Current::host, bytes);
}

MessageMemory take_bulk_memory(std::uint64_t bytes) {
  return take_from(&Current::bulk, std::max(bytes, kLeastBulk));
}

void wait_for_message_work() {
  call(&MessageMemorySource::wait);
}

void precede_transport(CUstream_st* stream) {
  call(&MessageMemorySource::precede, stream);
}

void follow_transport(CUstream_st* stream) {
  call(&MessageMemorySource::follow, stream);
}

}  // namespace coterie
