// Kernels on the host: blocks one after the other in a random order, the threads of each as fibers. A warp runs until
// its threads wait for the block, some warps far ahead of others; the order of the threads in it changes all the time.
#include "tests/hostcuda/emulation.hpp"

#include <boost/context/fiber.hpp>
#include <boost/context/stack_context.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

dim3 gridDim, blockDim, blockIdx, threadIdx;

// The __shared__ variables of all kernels, where there are any.
extern "C" __attribute__((weak)) std::uint64_t __start_hostcuda_shared[], __stop_hostcuda_shared[];

namespace hostcuda {
namespace {

namespace context = boost::context;

constexpr std::size_t warp_size = 32;

enum class State { fresh, ready, at_block_barrier, at_warp_barrier, done };

struct Thread {
  context::fiber fiber;  ///< where it waits
  dim3 index;
  State state = State::fresh;
  unsigned exchanges = 0;
};

/// Stacks of a size that is no power of two, or their ends would share the same few lines of the caches.
struct Stacks {
  context::stack_context allocate() {
    context::stack_context stack;
    stack.size = (std::size_t{64} << 10) + 576;
    stack.sp = static_cast<std::byte*>(std::malloc(stack.size)) + stack.size;
    return stack;
  }
  void deallocate(context::stack_context& stack) noexcept { std::free(static_cast<std::byte*>(stack.sp) - stack.size); }
};

struct Free {
  void operator()(std::byte* memory) const noexcept { std::free(memory); }
};
constexpr std::size_t shared_alignment = 1024;
constexpr std::size_t shared_begin = 128;  // no kernel may count on more

}  // namespace

/// The block that a kernel runs.
struct Block {
  const std::function<void()>* body = nullptr;
  std::vector<Thread> threads;
  std::array<std::vector<std::uint64_t>, 2> exchanged;  ///< a number of each thread, by turns
  std::vector<std::size_t> to_start;                    ///< threads of the warp that begins
  std::size_t current = 0;
  context::fiber scheduler;
  std::vector<context::fiber> idle;  ///< fibers that have no thread: each runs one after the other, if they don't wait
  std::unique_ptr<std::byte, Free> shared;  ///< from shared_begin on
  std::size_t shared_size = 0;
  bool waits_outside = false;  ///< a thread does, since all warps had their last turn
};

namespace {

/// Whose turn it is. Fibers can't be destroyed as the program ends, so blocks aren't.
Block* block = nullptr;
std::vector<Block*>& idle_blocks = *new std::vector<Block*>;
Kernel* in_shared = nullptr;  // whose __shared__ variables those of the program are; none when it is done
bool has_changed = false;     // since all warps had their last turn

void start_threads() {
  while (!block->to_start.empty()) {
    block->current = block->to_start.back();
    block->to_start.pop_back();
    threadIdx = block->threads[block->current].index;
    (*block->body)();
    block->threads[block->current].state = State::done;
  }
}

context::fiber make_fiber() {
  return {std::allocator_arg, Stacks(), [](context::fiber&& scheduler) -> context::fiber {
            for (block->scheduler = std::move(scheduler);;) {
              start_threads();
              block->scheduler = std::move(block->scheduler).resume();
            }
          }};
}

/// Until its thread waits, or it has none.
void resume(context::fiber fiber) {
  fiber = std::move(fiber).resume();
  Thread& thread = block->threads[block->current];
  if (thread.state == State::done) {
    block->idle.push_back(std::move(fiber));
  } else {
    thread.fiber = std::move(fiber);
  }
}

void wait(State state) {
  const std::size_t me = block->current;
  block->threads[me].state = state;
  block->scheduler = std::move(block->scheduler).resume();
}

/// Whether all threads of [first, last) wait at the barrier `state`, which lets them go on.
bool release(std::size_t first, std::size_t last, State state) {
  const auto waiting = std::count_if(&block->threads[first], &block->threads[first] + (last - first),
                                     [&](const Thread& thread) { return thread.state == state; });
  if (waiting == 0) return false;
  const auto left = std::count_if(&block->threads[first], &block->threads[first] + (last - first),
                                  [&](const Thread& thread) { return thread.state == State::done; });
  if (left > 0 && waiting + left == static_cast<std::ptrdiff_t>(last - first)) {
    fail("a barrier or a shuffle without all threads");
  }
  if (waiting < static_cast<std::ptrdiff_t>(last - first)) return false;
  for (std::size_t i = first; i < last; ++i) block->threads[i].state = State::ready;
  return true;
}

/// Runs the warp until its threads are done or wait for the block.
void run_warp(std::size_t first, std::size_t last) {
  std::vector<std::size_t>& order = block->to_start;
  order.resize(last - first);
  std::iota(order.begin(), order.end(), first);
  std::shuffle(order.begin(), order.end(), the_random());
  if (block->threads[first].state == State::fresh) {
    while (!order.empty()) {
      if (block->idle.empty()) block->idle.push_back(make_fiber());
      context::fiber fiber = std::move(block->idle.back());
      block->idle.pop_back();
      resume(std::move(fiber));
    }
  } else {
    std::array<std::size_t, warp_size> ready{};
    const auto end = std::ranges::copy(order, ready.begin()).out;
    order.clear();
    std::for_each(ready.begin(), end, [](std::size_t i) {
      Thread& thread = block->threads[i];
      if (thread.state != State::ready) return;
      block->current = i;
      threadIdx = thread.index;
      resume(std::move(thread.fiber));
    });
  }
}

/// What shared memory holds when a block starts: anything.
__attribute__((no_sanitize("address"), optimize("no-tree-loop-distribute-patterns"))) void spoil_shared() {
  for (std::uint64_t* at = __start_hostcuda_shared; at != __stop_hostcuda_shared; ++at) *at = ~std::uint64_t{0};
}

std::size_t shared_words() {
  return static_cast<std::size_t>(__stop_hostcuda_shared - __start_hostcuda_shared);
}

/// The variables as a whole, which the sanitizer doesn't know.
__attribute__((no_sanitize("address"), optimize("no-tree-loop-distribute-patterns"))) void copy_shared(
    const std::uint64_t* from, std::uint64_t* to) {
  for (std::size_t i = 0; i < shared_words(); ++i) to[i] = from[i];
}

/// Until all its threads are done, or as far as they come without other processes. Whether they are done.
bool run_block() {
  const std::size_t count = block->threads.size();
  std::array<std::size_t, 32> warps{};
  const std::size_t all = (count + warp_size - 1) / warp_size;
  const auto can_run = [&](std::size_t warp) {
    const std::size_t last = std::min(count, (warp + 1) * warp_size);
    return std::any_of(&block->threads[warp * warp_size], block->threads.data() + last, [](const Thread& thread) {
      return thread.state == State::fresh || thread.state == State::ready;
    });
  };
  constexpr int patience = 1000;  // of turns, while copies end by chance
  for (int idle = 0; idle < patience; ++idle) {
    std::iota(warps.begin(), warps.begin() + all, 0);
    auto end = std::remove_if(warps.begin(), warps.begin() + all, [&](std::size_t w) { return !can_run(w); });
    while (end != warps.begin()) {
      const auto chosen = warps.begin() + the_random()() % static_cast<std::uint64_t>(end - warps.begin());
      const std::size_t first = *chosen * warp_size;
      const std::size_t last = std::min(count, first + warp_size);
      // For a while, or as far as it comes.
      bool goes_on = true;
      do {
        run_warp(first, last);
        goes_on = release(first, last, State::at_warp_barrier);
        has_changed = has_changed || goes_on;
      } while (goes_on && !the_random().one_in(8));
      if (!goes_on) *chosen = *--end;
    }
    if (release(0, count, State::at_block_barrier) || std::exchange(has_changed, false)) idle = 0;
    const auto is = [](State state) { return [=](const Thread& thread) { return thread.state == state; }; };
    if (std::ranges::all_of(block->threads, is(State::done))) return true;
    if (std::ranges::none_of(block->threads, is(State::ready))) fail("threads wait at different barriers");
    if (std::exchange(block->waits_outside, false)) return false;
  }
  fail("threads wait for what nobody does");
}

}  // namespace

void fail(const char* what) {
  std::fprintf(stderr, "hostcuda: %s (block %u %u %u, thread %u %u %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z,
               threadIdx.x, threadIdx.y, threadIdx.z);
  std::abort();
}

Random& the_random() {
  static Random random = [] {
    const char* text = std::getenv("COTERIE_HOSTCUDA_SEED");
    const std::uint64_t seed = text == nullptr ? std::random_device{}() : std::strtoull(text, nullptr, 10);
    std::fprintf(stderr, "COTERIE_HOSTCUDA_SEED=%llu\n", static_cast<unsigned long long>(seed));
    return Random(seed);
  }();
  return random;
}

Kernel::Kernel(dim3 grid, dim3 size, std::size_t shared_bytes, std::function<void()> body)
    : grid_(grid), size_(size), shared_bytes_(shared_bytes), body_(std::move(body)) {}

void Kernel::begin() {
  if (idle_blocks.empty()) idle_blocks.push_back(new Block);
  block_ = idle_blocks.back();
  idle_blocks.pop_back();
  void* memory = nullptr;
  if (posix_memalign(&memory, shared_alignment, shared_begin + shared_bytes_) != 0) fail("no memory");
  block_->shared.reset(static_cast<std::byte*>(memory));
  block_->shared_size = shared_bytes_;
  block_->body = &body_;
  const std::size_t threads = std::size_t{size_.x} * size_.y * size_.z;
  block_->threads.resize(threads);
  for (auto& numbers : block_->exchanged) numbers.resize(threads);
  for (std::size_t i = 0; i < threads; ++i) {
    const auto n = static_cast<unsigned>(i);
    block_->threads[i].index = {n % size_.x, n / size_.x % size_.y, n / size_.x / size_.y};
  }
  order_.resize(std::uint64_t{grid_.x} * grid_.y * grid_.z);
  std::iota(order_.begin(), order_.end(), 0);
  std::shuffle(order_.begin(), order_.end(), the_random());
}

bool Kernel::go_on() {
  if (block_ == nullptr) begin();
  block = block_;
  gridDim = grid_;
  blockDim = size_;
  if (in_shared != this) {
    if (in_shared != nullptr) {
      in_shared->shared_variables_.resize(shared_words());
      copy_shared(__start_hostcuda_shared, in_shared->shared_variables_.data());
    }
    if (!shared_variables_.empty()) copy_shared(shared_variables_.data(), __start_hostcuda_shared);
    in_shared = this;
  }
  for (; next_ < order_.size(); ++next_) {
    const std::uint64_t n = order_[next_];
    blockIdx.x = static_cast<unsigned>(n % grid_.x);
    blockIdx.y = static_cast<unsigned>(n / grid_.x % grid_.y);
    blockIdx.z = static_cast<unsigned>(n / grid_.x / grid_.y);
    if (!std::exchange(in_block_, true)) {
      std::memset(dynamic_shared(), 0xff, shared_bytes_);
      if (the_random().one_in(8)) spoil_shared();  // takes as long as a small block
      for (Thread& thread : block->threads) thread.state = State::fresh;
    }
    if (!run_block()) return false;
    in_block_ = false;
  }
  in_shared = nullptr;
  idle_blocks.push_back(block_);
  return true;
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

void poll_outside() {
  block->waits_outside = true;
  poll();
}

void changed() {
  has_changed = true;
}

std::size_t dynamic_shared_bytes() {
  return block->shared_size;
}

std::byte* dynamic_shared() {
  return block->shared.get() + shared_begin;
}

unsigned lane() {
  return static_cast<unsigned>(block->current % warp_size);
}

std::uint64_t exchange(std::uint64_t value, unsigned from) {
  const std::size_t me = block->current;
  // By turns: who is here again has been at a barrier after which all have read what was here before.
  std::vector<std::uint64_t>& exchanged = block->exchanged[block->threads[me].exchanges++ % 2];
  exchanged[me] = value;
  wait_for_warp();
  const std::size_t other = me / warp_size * warp_size + from;
  if (other >= exchanged.size()) fail("a shuffle with a lane that isn't there");
  return exchanged[other];
}

}  // namespace hostcuda
