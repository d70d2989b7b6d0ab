#include "tests/hostcuda/emulation.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <map>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

namespace hostcuda {
namespace {

class DeviceHeap {
 public:
  void* take(std::size_t wanted) {
    constexpr std::size_t page = 4096;
    constexpr std::size_t gap = 256;  // at least, between two pieces
    const std::size_t bytes = (wanted + gap + page - 1) / page * page;
    if (base_ == nullptr) {
      void* all = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (all == MAP_FAILED) return nullptr;
      base_ = static_cast<std::byte*>(all);
      (void)madvise(base_, reserved, MADV_HUGEPAGE);  // fewer pages to lock
    }
    const auto fit = std::ranges::find_if(free_, [&](const auto& piece) { return piece.second >= bytes; });
    std::byte* memory = base_ + used_;
    if (fit != free_.end()) {
      memory = fit->first;
      const std::size_t rest = fit->second - bytes;
      free_.erase(fit);
      if (rest > 0) free_[memory + bytes] = rest;
    } else {
      if (used_ + bytes > reserved) return nullptr;
      used_ += bytes;
    }
    taken_[memory] = bytes;
    ASAN_POISON_MEMORY_REGION(memory, bytes);
    ASAN_UNPOISON_MEMORY_REGION(memory, wanted);
    open_ = false;  // not all that is used now
    open();
    spoil(memory, wanted);
    close();
    return memory;
  }

  void give(void* memory) {
    if (memory == nullptr) return;
    const auto piece = taken_.find(static_cast<std::byte*>(memory));
    if (piece == taken_.end()) fail("cudaFree of memory that isn't the device's");
    ASAN_POISON_MEMORY_REGION(piece->first, piece->second);
    auto at = free_.emplace(piece->first, piece->second).first;
    taken_.erase(piece);
    if (const auto next = std::next(at); next != free_.end() && at->first + at->second == next->first) {
      at->second += next->second;
      free_.erase(next);
    }
    if (at == free_.begin()) return;
    if (const auto before = std::prev(at); before->first + before->second == at->first) {
      before->second += at->second;
      free_.erase(at);
    }
  }

  /// Whether it is of one piece that is taken.
  [[nodiscard]] bool holds(const std::byte* first, std::size_t bytes) const {
    auto piece = taken_.upper_bound(const_cast<std::byte*>(first));
    return piece != taken_.begin() && first + bytes <= std::prev(piece)->first + std::prev(piece)->second;
  }

  [[nodiscard]] std::size_t free_bytes() const { return reserved - used_; }

  void open() {
    if (!open_) protect(PROT_READ | PROT_WRITE);
    open_ = true;
  }
  void close() {
    if (!open_ || (++closed_ > 64 && !the_random().one_in(16))) return;
    protect(PROT_NONE);
    open_ = false;
  }

 private:
  void protect(int access) const {
    constexpr std::size_t huge = std::size_t{2} << 20;
    if (base_ != nullptr && mprotect(base_, std::min(reserved, (used_ + huge - 1) / huge * huge), access) != 0) {
      fail("device memory can't be protected");
    }
  }

  static constexpr std::size_t reserved = all_device_memory;
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
  bool open_ = false;
  std::uint64_t closed_ = 0;
  std::map<std::byte*, std::size_t> free_, taken_;
};
DeviceHeap& heap = *new DeviceHeap;  // devices of static objects may outlive those of this file

}  // namespace

void spoil(void* memory, std::size_t bytes) {
  constexpr std::size_t most = std::size_t{16} << 20;  // caches may have gigabytes that are never touched
  std::memset(memory, 0xff, std::min(bytes, most));
}

bool is_device_memory(const void* memory, std::size_t bytes) {
  return heap.holds(static_cast<const std::byte*>(memory), bytes);
}

void copy_between(void* to, const void* from, std::size_t bytes) {
  heap.open();
  std::memcpy(to, from, bytes);
  heap.close();
}

std::size_t free_device_memory() {
  return heap.free_bytes();
}

void* take_device_memory(std::size_t bytes) {
  return heap.take(bytes);
}

void give_device_memory(void* memory) {
  heap.give(memory);
}

void unlock_device_memory() {
  heap.open();
}

void lock_device_memory() {
  heap.close();
}

}  // namespace hostcuda
