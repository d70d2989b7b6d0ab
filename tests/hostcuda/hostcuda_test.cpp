// The emulated GPU itself: programs that are wrong on a GPU go wrong on it, soon and whatever the seed; their right
// twins never do.
#include "kernels/cuda/gpu.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>
#include <vector>

namespace coterie {
namespace {

constexpr int kTries = 200;

template <class T>
struct Pinned {
  T* numbers = nullptr;
  explicit Pinned(std::size_t count) {
    check(cudaMallocHost(reinterpret_cast<void**>(&numbers), count * sizeof(T)), "pinned memory");
  }
  ~Pinned() { (void)cudaFreeHost(numbers); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
};

class HostCuda : public testing::Test {
 protected:
  void SetUp() override {
    for (cudaStream_t& stream : streams_) check(cudaStreamCreate(&stream), "a stream");
    check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "an event");
    check(cudaMalloc(reinterpret_cast<void**>(&memory_), kCount * sizeof(float)), "memory");
  }
  void TearDown() override {
    (void)cudaFree(memory_);
    (void)cudaEventDestroy(event_);
    for (cudaStream_t stream : streams_) (void)cudaStreamDestroy(stream);
  }
  std::vector<float> memory() {
    std::vector<float> host(kCount);
    check(cudaMemcpyAsync(host.data(), memory_, kCount * sizeof(float), cudaMemcpyDeviceToHost, streams_[0]), "a copy");
    return host;
  }
  /// What a program comes to, in many tries.
  static std::set<float> outcomes(const std::function<float()>& program) {
    std::set<float> all;
    for (int i = 0; i < kTries; ++i) all.insert(program());
    return all;
  }

  static constexpr std::size_t kCount = 256;
  std::array<cudaStream_t, 2> streams_{};
  cudaEvent_t event_ = nullptr;
  float* memory_ = nullptr;
};
using HostCudaDeathTest = HostCuda;

__global__ void set(float* to, float value) {
  *to = value;
}
__global__ void copy(const float* from, float* to) {
  *to = *from;
}

TEST_F(HostCuda, StreamsRunInNoOrderUnlessAnEventSaysSo) {
  const auto program = [&](bool with_event) {
    Pinned<float> result(1);
    launch(set, 1, 1, 0, streams_[0], memory_, 1.0F);
    check(cudaStreamSynchronize(streams_[0]), "waiting");
    launch(set, 1, 1, 0, streams_[0], memory_, 2.0F);
    if (with_event) {
      check(cudaEventRecord(event_, streams_[0]), "an event");
      check(cudaStreamWaitEvent(streams_[1], event_, 0), "an event");
    }
    launch(copy, 1, 1, 0, streams_[1], memory_, result.numbers);
    check(cudaStreamSynchronize(streams_[1]), "waiting");
    const float seen = *result.numbers;
    check(cudaStreamSynchronize(streams_[0]), "waiting");
    return seen;
  };
  EXPECT_EQ(outcomes([&] { return program(false); }), (std::set<float>{1, 2}));
  EXPECT_EQ(outcomes([&] { return program(true); }), (std::set<float>{2}));
}

TEST_F(HostCuda, NothingIsDoneBeforeTheHostWaitsForIt) {
  Pinned<float> result(1);
  *result.numbers = 0;
  launch(set, 1, 1, 0, streams_[0], memory_, 3.0F);
  check(cudaMemcpyAsync(result.numbers, memory_, sizeof(float), cudaMemcpyDeviceToHost, streams_[0]), "a copy");
  check(cudaEventRecord(event_, streams_[0]), "an event");
  launch(set, 1, 1, 0, streams_[0], result.numbers, 4.0F);
  EXPECT_EQ(*result.numbers, 0);
  check(cudaEventSynchronize(event_), "waiting");
  EXPECT_EQ(*result.numbers, 3);
  check(cudaStreamSynchronize(streams_[0]), "waiting");
  EXPECT_EQ(*result.numbers, 4);
}

TEST_F(HostCuda, PinnedMemoryIsReadLateAndOtherMemoryAtOnce) {
  Pinned<float> pinned(1);
  std::vector<float> pageable{1};
  *pinned.numbers = 1;
  check(cudaMemcpyAsync(memory_, pinned.numbers, sizeof(float), cudaMemcpyHostToDevice, streams_[0]), "a copy");
  check(cudaMemcpyAsync(memory_ + 1, pageable.data(), sizeof(float), cudaMemcpyHostToDevice, streams_[0]), "a copy");
  *pinned.numbers = pageable[0] = 2;
  const std::vector<float> seen = memory();
  EXPECT_EQ(seen[0], 2);
  EXPECT_EQ(seen[1], 1);
}

__global__ void number_blocks(float* next, float* numbers) {
  numbers[blockIdx.x] = (*next)++;
}

TEST_F(HostCuda, BlocksRunInAnyOrder) {
  constexpr unsigned blocks = 64;
  launch(set, 1, 1, 0, streams_[0], memory_, 0.0F);
  launch(number_blocks, blocks, 1, 0, streams_[0], memory_, memory_ + 1);
  std::vector<float> places = memory();
  places.erase(places.begin());
  places.resize(blocks);
  std::vector<float> expected(blocks);
  std::iota(expected.begin(), expected.end(), 0.0F);
  EXPECT_NE(places, expected);
  EXPECT_TRUE(std::ranges::is_permutation(places, expected));
}

/// The block's sum of 1, 2, ..., by a thread that reads what all have written.
__global__ void sum_threads(bool with_barrier, float* sum) {
  __shared__ float numbers[64];
  numbers[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (with_barrier) __syncthreads();
  if (threadIdx.x != 63) return;
  *sum = 0;
  for (const float number : numbers) *sum += number;
}

TEST_F(HostCuda, AMissingBarrierShows) {
  const auto program = [&](bool with_barrier) {
    launch(sum_threads, 1, 64, 0, streams_[0], with_barrier, memory_);
    return memory()[0];
  };
  constexpr float expected = 63 * 64 / 2;
  int wrong = 0;
  for (int i = 0; i < kTries; ++i) {
    EXPECT_EQ(program(true), expected);
    wrong += program(false) == expected ? 0 : 1;
  }
  EXPECT_GT(wrong, 0);
}

/// Waits for what is no work of the GPU's, with something in shared memory meanwhile.
__global__ void wait_outside(const float* word, float* out) {
  __shared__ float numbers[32];
  numbers[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) {
    while (*word == 0) hostcuda::poll_outside();
  }
  __syncthreads();
  out[threadIdx.x] = numbers[31 - threadIdx.x];
}

TEST_F(HostCuda, AKernelThatWaitsForOtherProcessesHoldsUpNobodyElse) {
  Pinned<float> word(1), result(1), numbers(32);
  for (int i = 0; i < 20; ++i) {
    *word.numbers = *result.numbers = 0;
    launch(wait_outside, 1, 32, 0, streams_[0], word.numbers, numbers.numbers);
    EXPECT_EQ(cudaStreamQuery(streams_[0]), cudaErrorNotReady);
    launch(sum_threads, 1, 64, 0, streams_[1], true, result.numbers);
    check(cudaStreamSynchronize(streams_[1]), "waiting");
    EXPECT_EQ(*result.numbers, 63 * 64 / 2);
    EXPECT_EQ(cudaStreamQuery(streams_[0]), cudaErrorNotReady);
    *word.numbers = 1;
    check(cudaStreamSynchronize(streams_[0]), "waiting");
    for (int n = 0; n < 32; ++n) EXPECT_EQ(numbers.numbers[n], static_cast<float>(31 - n));
  }
}

/// Adds a number to each of a buffer's that was never set.
__global__ void read_shared(bool dynamic, float* out) {
  __shared__ float numbers[32];
  float& mine = dynamic ? dynamic_shared_floats()[threadIdx.x] : numbers[threadIdx.x];
  out[threadIdx.x] = mine;
  mine = 1;
}

TEST_F(HostCuda, WhatWasNeverWrittenIsNotANumber) {
  EXPECT_TRUE(std::isnan(memory()[kCount - 1]));
  const auto nans = [&](bool dynamic) {
    int count = 0;
    for (int i = 0; i < kTries; ++i) {
      launch(read_shared, 1, 32, 32 * sizeof(float), streams_[0], dynamic, memory_);
      count += std::isnan(memory()[7]) ? 1 : 0;
    }
    return count;
  };
  EXPECT_EQ(nans(true), kTries);
  EXPECT_GT(nans(false), 0);
}

__global__ void leave_early(float* out) {
  if (threadIdx.x == 3) return;
  *out = warp_sum(1);
}
__global__ void wait_apart() {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}
[[maybe_unused]] __global__ void write_at(float* to, std::size_t index) {
  to[index] = 1;
}

TEST_F(HostCudaDeathTest, WhatIsWrongWhateverTheOrderEndsTheProgram) {
  const auto run = [&](auto kernel, auto... arguments) {
    launch(kernel, 1, 32, 0, streams_[0], arguments...);
    check(cudaStreamSynchronize(streams_[0]), "waiting");
  };
  EXPECT_DEATH(run(leave_early, memory_), "a barrier or a shuffle without all threads");
  EXPECT_DEATH(run(wait_apart), "threads wait at different barriers");
  EXPECT_DEATH(launch(set, 1, 1, 49 << 10, streams_[0], memory_, 1.0F), "more shared memory than its kernel may have");
  EXPECT_DEATH(launch(set, dim3(1, 65536), 1, 0, streams_[0], memory_, 1.0F), "so many blocks");
  EXPECT_DEATH(*memory_ = 1, "");
#ifdef __SANITIZE_ADDRESS__
  EXPECT_DEATH(run(write_at, memory_, kCount), "AddressSanitizer");
#endif
}

}  // namespace
}  // namespace coterie
