#include "tests/hostcuda/cuda_runtime.h"

#include <boost/context/fiber.hpp>
#include <boost/context/pooled_fixedsize_stack.hpp>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <vector>

struct CUstream_st {
  std::deque<std::function<bool()>> work;
};

dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace hostcuda {

void fail(const char* what) {
  std::fprintf(stderr, "hostcuda: %s (block %u %u %u, thread %u %u %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

namespace {

namespace context = boost::context;

enum class State { ready, at_block_barrier, at_warp_barrier, done };

struct Thread {
  context::fiber fiber;
  dim3 index;
  State state = State::ready;
};

/// The block that runs; kernels run one after the other, blocks too.
struct Block {
  std::vector<Thread> threads;
  std::vector<std::uint64_t> exchanged;  ///< a number of each thread
  std::size_t current = 0;
  context::fiber scheduler;
};
Block block;
std::vector<std::byte> shared;
std::map<const void*, std::size_t> allowed_shared;  // bytes, of kernels that asked for more than any has
bool has_changed = false;                           // since the threads had their last turn
context::pooled_fixedsize_stack stacks(std::size_t{64} << 10);

/// Device memory: from one range of addresses, which the host may not touch outside of copies and kernels. Under
/// AddressSanitizer it comes from the heap, whose ends are watched.
class DeviceHeap {
 public:
  void* take(std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
    return std::malloc(bytes);
#else
    constexpr std::size_t page = 4096;
    bytes = (std::max<std::size_t>(bytes, 1) + page - 1) / page * page;
    if (base_ == nullptr) {
      void* all = mmap(nullptr, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (all == MAP_FAILED) return nullptr;
      base_ = static_cast<std::byte*>(all);
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
      grown_ = true;
    }
    taken_[memory] = bytes;
    return memory;
#endif
  }

  /// At the end of the range; pieces that came back are not counted.
  [[nodiscard]] std::size_t free_bytes() const {
    return reserved - used_;
  }

  void give(void* memory) {
#ifdef __SANITIZE_ADDRESS__
    std::free(memory);
#else
    if (memory == nullptr) return;
    const auto piece = taken_.find(static_cast<std::byte*>(memory));
    if (piece == taken_.end()) fail("cudaFree of memory that isn't the device's");
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
#endif
  }

  /// Whether memory came that open() hasn't seen.
  [[nodiscard]] bool grown() const {
    return grown_;
  }

  void open(bool opened) {
    grown_ = false;
    if (base_ != nullptr && mprotect(base_, used_, opened ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) {
      fail("device memory can't be protected");
    }
  }

  static constexpr std::size_t reserved = std::size_t{16} << 30;

 private:
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
  bool grown_ = false;
  std::map<std::byte*, std::size_t> free_, taken_;
};
DeviceHeap heap;

/// While it lives, device memory may be touched; most of the time also afterwards, since locking it takes longer than a
/// small kernel: the first calls are checked, then one in 16.
class Opened {
 public:
  Opened() {
    if (locked_ || heap.grown()) heap.open(true);
    locked_ = false;
  }
  ~Opened() {
    locked_ = ++calls_ < 64 || calls_ % 16 == 0;
    if (locked_) heap.open(false);
  }
  Opened(const Opened&) = delete;
  Opened& operator=(const Opened&) = delete;

 private:
  static inline bool locked_ = true;
  static inline std::uint64_t calls_ = 0;
};

void wait(State state) {
  block.threads[block.current].state = state;
  block.scheduler = std::move(block.scheduler).resume();
}

/// Threads of [first, last) that wait at the barrier `state` go on if all of those that still run do. Whether they did.
bool release(std::size_t first, std::size_t last, State state) {
  bool any = false;
  for (std::size_t i = first; i < last; ++i) {
    const State now = block.threads[i].state;
    if (now != state && now != State::done) return false;
    any = any || now == state;
  }
  for (std::size_t i = first; i < last; ++i) {
    Thread& thread = block.threads[i];
    if (thread.state == State::done && state == State::at_block_barrier && any) fail("a barrier without all threads");
    if (thread.state == state) thread.state = State::ready;
  }
  return any;
}

void run_block(const std::function<void()>& body, std::mt19937& random) {
  const std::size_t count = block.threads.size();
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  for (Thread& thread : block.threads) {
    thread.state = State::ready;
    thread.fiber = context::fiber(std::allocator_arg, stacks, [&body](context::fiber&& scheduler) {
      block.scheduler = std::move(scheduler);
      body();
      block.threads[block.current].state = State::done;
      return std::move(block.scheduler);
    });
  }
  const auto running = [](const Thread& thread) { return thread.state != State::done; };
  int idle = 0;
  while (std::ranges::any_of(block.threads, running)) {
    std::shuffle(order.begin(), order.end(), random);
    for (const std::size_t i : order) {
      Thread& thread = block.threads[i];
      if (thread.state != State::ready) continue;
      block.current = i;
      threadIdx = thread.index;
      thread.fiber = std::move(thread.fiber).resume();
    }
    const bool some_poll = std::ranges::any_of(block.threads, [](const Thread& t) { return t.state == State::ready; });
    bool released = release(0, count, State::at_block_barrier);
    for (std::size_t warp = 0; warp < count; warp += 32) {
      released = release(warp, std::min(warp + 32, count), State::at_warp_barrier) || released;
    }
    if (!released && !some_poll && std::ranges::any_of(block.threads, running)) {
      fail("threads wait at different barriers");
    }
    constexpr int patience = 1000;  // of turns, while copies end by chance
    idle = released || std::exchange(has_changed, false) ? 0 : idle + 1;
    if (idle > patience) fail("threads wait for what nobody does");
  }
}

std::map<const std::byte*, std::size_t> pinned;  // from cudaMallocHost
Calls counted;

unsigned seed() {
  const char* text = std::getenv("COTERIE_HOSTCUDA_SEED");
  return text == nullptr ? 1U : static_cast<unsigned>(std::strtoul(text, nullptr, 10));
}

}  // namespace

void enqueue(CUstream_st* stream, std::function<bool()> is_done) {
  stream->work.push_back(std::move(is_done));
}

bool is_pinned(const void* memory, std::size_t bytes) {
  const auto* first = static_cast<const std::byte*>(memory);
  auto piece = pinned.upper_bound(first);
  return piece != pinned.begin() && first + bytes <= std::prev(piece)->first + std::prev(piece)->second;
}

Calls calls() {
  return counted;
}

void count_copy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  if (!is_pinned(kind == cudaMemcpyHostToDevice ? from : to, bytes)) ++counted.pageable_copies;
}

void run(dim3 grid, dim3 size, std::size_t shared_bytes, const std::function<void()>& body, const void* kernel) {
  constexpr std::size_t most_threads = 1024;
  constexpr std::size_t most_shared = std::size_t{48} << 10;
  const std::size_t threads = std::size_t{size.x} * size.y * size.z;
  if (threads == 0 || threads > most_threads || grid.y > 65535 || grid.z > 65535) fail("a launch out of range");
  const auto allowed = allowed_shared.find(kernel);
  if (shared_bytes > (allowed == allowed_shared.end() ? most_shared : allowed->second)) {
    fail("a launch with more shared memory than its kernel may have");
  }
  static std::mt19937 random(seed());
  const Opened opened;
  gridDim = grid;
  blockDim = size;
  shared.assign(shared_bytes, std::byte{0xff});
  shared.shrink_to_fit();
  block.threads.resize(threads);
  block.exchanged.resize(threads);
  for (std::size_t i = 0; i < threads; ++i) {
    const auto n = static_cast<unsigned>(i);
    block.threads[i].index = {n % size.x, n / size.x % size.y, n / size.x / size.y};
  }
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z) {
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y) {
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(body, random);
    }
  }
}

void wait_for_block() {
  wait(State::at_block_barrier);
}

void wait_for_warp() {
  wait(State::at_warp_barrier);
}

void poll() {
  wait(State::ready);
}

void changed() {
  has_changed = true;
}

std::size_t dynamic_shared_bytes() {
  return shared.size();
}

std::byte* dynamic_shared() {
  return shared.data();
}

unsigned lane() {
  return static_cast<unsigned>(block.current % 32);
}

std::uint64_t exchange(std::uint64_t value, unsigned from) {
  const std::size_t me = block.current;
  block.exchanged[me] = value;
  wait_for_warp();
  const std::size_t other = me / 32 * 32 + from;
  if (other >= block.exchanged.size()) fail("a shuffle with a lane that isn't there");
  const std::uint64_t theirs = block.exchanged[other];
  wait_for_warp();
  return theirs;
}

}  // namespace hostcuda

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int) {
  std::snprintf(id, static_cast<std::size_t>(length), "0000:00:00.0");
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {"hostcuda", {}, 9, 0, 3};
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, std::size_t bytes) {
  ++hostcuda::counted.allocations;
  *memory = hostcuda::heap.take(bytes);
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  ++hostcuda::counted.frees;
  hostcuda::heap.give(memory);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = hostcuda::heap.free_bytes();
  *total = hostcuda::DeviceHeap::reserved;
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** memory, std::size_t bytes) {
  ++hostcuda::counted.allocations;
  *memory = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  hostcuda::pinned[static_cast<std::byte*>(*memory)] = bytes;
  return *memory == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

cudaError_t cudaFreeHost(void* memory) {
  ++hostcuda::counted.frees;
  hostcuda::pinned.erase(static_cast<std::byte*>(memory));
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  hostcuda::count_copy(to, from, bytes, kind);
  const hostcuda::Opened opened;
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind kind, cudaStream_t) {
  if (height > 0) {
    const std::size_t pitch = kind == cudaMemcpyHostToDevice ? from_pitch : to_pitch;
    hostcuda::count_copy(to, from, (height - 1) * pitch + width, kind);
  }
  const hostcuda::Opened opened;
  for (std::size_t r = 0; r < height; ++r) {
    std::memcpy(static_cast<char*>(to) + r * to_pitch, static_cast<const char*>(from) + r * from_pitch, width);
  }
  return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = nullptr;
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  if (stream == nullptr) return cudaSuccess;
  while (!stream->work.empty() && stream->work.front()()) stream->work.pop_front();
  return stream->work.empty() ? cudaSuccess : cudaErrorNotReady;
}

/// What others may still write to stays until the process ends.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream != nullptr && stream->work.empty()) delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ++hostcuda::counted.waits;
  while (cudaStreamQuery(stream) != cudaSuccess) {
  }
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  constexpr int most = 227 << 10;
  if (value < 0 || value > most) return cudaErrorInvalidValue;
  hostcuda::allowed_shared[kernel] = static_cast<std::size_t>(value);
  return cudaSuccess;
}

/// Work on streams is the host's own here, and goes on when it is asked for.
cudaError_t cudaDeviceSynchronize() {
  ++hostcuda::counted.waits;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : "an error";
}
