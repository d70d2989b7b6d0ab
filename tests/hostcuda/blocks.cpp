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

/// The block that runs.
struct Block {
  const std::function<void()>* body = nullptr;
  std::vector<Thread> threads;
  std::array<std::vector<std::uint64_t>, 2> exchanged;  ///< a number of each thread, by turns
  std::vector<std::size_t> to_start;                    ///< threads of the warp that begins
  std::size_t current = 0;
  context::fiber scheduler;
  std::vector<context::fiber> idle;  ///< fibers that have no thread: each runs one after the other, if they don't wait
};
Block& block = *new Block;  // fibers can't be destroyed as the program ends
struct Free {
  void operator()(std::byte* memory) const noexcept { std::free(memory); }
};
constexpr std::size_t shared_alignment = 1024;
constexpr std::size_t shared_begin = 48;  // no kernel may count on more than 16
std::unique_ptr<std::byte, Free> shared;  // from shared_begin on
std::size_t shared_size = 0;
bool has_changed = false;  // since all warps had their last turn

void start_threads() {
  while (!block.to_start.empty()) {
    block.current = block.to_start.back();
    block.to_start.pop_back();
    threadIdx = block.threads[block.current].index;
    (*block.body)();
    block.threads[block.current].state = State::done;
  }
}

context::fiber make_fiber() {
  return {std::allocator_arg, Stacks(), [](context::fiber&& scheduler) -> context::fiber {
            for (block.scheduler = std::move(scheduler);;) {
              start_threads();
              block.scheduler = std::move(block.scheduler).resume();
            }
          }};
}

/// Until its thread waits, or it has none.
void resume(context::fiber fiber) {
  fiber = std::move(fiber).resume();
  Thread& thread = block.threads[block.current];
  if (thread.state == State::done) {
    block.idle.push_back(std::move(fiber));
  } else {
    thread.fiber = std::move(fiber);
  }
}

void wait(State state) {
  const std::size_t me = block.current;
  block.threads[me].state = state;
  block.scheduler = std::move(block.scheduler).resume();
}

/// Whether all threads of [first, last) wait at the barrier `state`, which lets them go on.
bool release(std::size_t first, std::size_t last, State state) {
  const auto waiting = std::count_if(&block.threads[first], &block.threads[first] + (last - first),
                                     [&](const Thread& thread) { return thread.state == state; });
  if (waiting == 0) return false;
  const auto left = std::count_if(&block.threads[first], &block.threads[first] + (last - first),
                                  [&](const Thread& thread) { return thread.state == State::done; });
  if (left > 0 && waiting + left == static_cast<std::ptrdiff_t>(last - first)) {
    fail("a barrier or a shuffle without all threads");
  }
  if (waiting < static_cast<std::ptrdiff_t>(last - first)) return false;
  for (std::size_t i = first; i < last; ++i) block.threads[i].state = State::ready;
  return true;
}

/// Runs the warp until its threads are done or wait for the block.
void run_warp(std::size_t first, std::size_t last) {
  std::vector<std::size_t>& order = block.to_start;
  order.resize(last - first);
  std::iota(order.begin(), order.end(), first);
  std::shuffle(order.begin(), order.end(), the_random());
  if (block.threads[first].state == State::fresh) {
    while (!order.empty()) {
      if (block.idle.empty()) block.idle.push_back(make_fiber());
      context::fiber fiber = std::move(block.idle.back());
      block.idle.pop_back();
      resume(std::move(fiber));
    }
  } else {
    std::array<std::size_t, warp_size> ready{};
    const auto end = std::ranges::copy(order, ready.begin()).out;
    order.clear();
    std::for_each(ready.begin(), end, [](std::size_t i) {
      Thread& thread = block.threads[i];
      if (thread.state != State::ready) return;
      block.current = i;
      threadIdx = thread.index;
      resume(std::move(thread.fiber));
    });
  }
}

/// What shared memory holds when a block starts: anything.
__attribute__((no_sanitize("address"), optimize("no-tree-loop-distribute-patterns"))) void spoil_shared() {
  for (std::uint64_t* at = __start_hostcuda_shared; at != __stop_hostcuda_shared; ++at) *at = ~std::uint64_t{0};
}

void run_block() {
  const std::size_t count = block.threads.size();
  for (Thread& thread : block.threads) thread.state = State::fresh;
  std::array<std::size_t, 32> warps{};
  const std::size_t all = (count + warp_size - 1) / warp_size;
  const auto can_run = [&](std::size_t warp) {
    const std::size_t last = std::min(count, (warp + 1) * warp_size);
    return std::any_of(&block.threads[warp * warp_size], block.threads.data() + last, [](const Thread& thread) {
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
    if (std::ranges::all_of(block.threads, is(State::done))) return;
    if (std::ranges::none_of(block.threads, is(State::ready))) fail("threads wait at different barriers");
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

void run(dim3 grid, dim3 size, std::size_t shared_bytes, const std::function<void()>& body) {
  const std::size_t threads = std::size_t{size.x} * size.y * size.z;
  gridDim = grid;
  blockDim = size;
  void* memory = nullptr;
  if (posix_memalign(&memory, shared_alignment, shared_begin + shared_bytes) != 0) fail("no memory");
  shared.reset(static_cast<std::byte*>(memory));
  shared_size = shared_bytes;
  block.body = &body;
  block.threads.resize(threads);
  for (auto& numbers : block.exchanged) numbers.resize(threads);
  for (std::size_t i = 0; i < threads; ++i) {
    const auto n = static_cast<unsigned>(i);
    block.threads[i].index = {n % size.x, n / size.x % size.y, n / size.x / size.y};
  }
  std::vector<std::uint64_t> order(std::uint64_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), the_random());
  for (const std::uint64_t n : order) {
    blockIdx.x = static_cast<unsigned>(n % grid.x);
    blockIdx.y = static_cast<unsigned>(n / grid.x % grid.y);
    blockIdx.z = static_cast<unsigned>(n / grid.x / grid.y);
    std::memset(dynamic_shared(), 0xff, shared_bytes);
    if (the_random().one_in(8)) spoil_shared();  // takes as long as a small block
    run_block();
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
  return shared_size;
}

std::byte* dynamic_shared() {
  return shared.get() + shared_begin;
}

unsigned lane() {
  return static_cast<unsigned>(block.current % warp_size);
}

std::uint64_t exchange(std::uint64_t value, unsigned from) {
  const std::size_t me = block.current;
  // By turns: who is here again has been at a barrier after which all have read what was here before.
  std::vector<std::uint64_t>& exchanged = block.exchanged[block.threads[me].exchanges++ % 2];
  exchanged[me] = value;
  wait_for_warp();
  const std::size_t other = me / warp_size * warp_size + from;
  if (other >= exchanged.size()) fail("a shuffle with a lane that isn't there");
  return exchanged[other];
}

}  // namespace hostcuda
