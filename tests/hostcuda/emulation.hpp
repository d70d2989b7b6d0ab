// What the parts of the emulated GPU share.
#pragma once

#include "tests/hostcuda/cuda_runtime.h"

#include <cstdint>
#include <limits>
#include <vector>

namespace hostcuda {

/// Decides every order that CUDA leaves open (splitmix64).
class Random {
 public:
  using result_type = std::uint64_t;
  explicit Random(std::uint64_t seed) : state_(seed) {}
  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return std::numeric_limits<result_type>::max(); }
  result_type operator()() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }
  /// True once in `n` calls.
  bool one_in(std::uint64_t n) { return (*this)() % n == 0; }

 private:
  std::uint64_t state_;
};
/// Seeded by COTERIE_HOSTCUDA_SEED, else by chance; says the seed on stderr.
[[nodiscard]] Random& the_random();

/// Fills new memory with NaN; of large pieces the first part.
void spoil(void* memory, std::size_t bytes);

/// Device memory, from one range of addresses that host code may not touch: it is locked except while kernels and
/// copies run. Under AddressSanitizer the ends of what is taken are watched too.
constexpr std::size_t all_device_memory = std::size_t{16} << 30;
/// At the end of the range; pieces that came back are not counted.
[[nodiscard]] std::size_t free_device_memory();
void* take_device_memory(std::size_t bytes);
void give_device_memory(void* memory);
void unlock_device_memory();
/// Locks it, most often: locking takes longer than a small kernel.
void lock_device_memory();

struct Block;

/// Runs `body` as every thread of every block.
class Kernel {
 public:
  Kernel(dim3 grid, dim3 block, std::size_t shared_bytes, std::function<void()> body);
  Kernel(const Kernel&) = delete;
  Kernel& operator=(const Kernel&) = delete;
  /// As far as it comes without other processes. Whether it is done; if not, other kernels may run in between.
  [[nodiscard]] bool go_on();

 private:
  void begin();

  dim3 grid_, size_;
  std::size_t shared_bytes_;
  std::function<void()> body_;
  Block* block_ = nullptr;  ///< none before it begins
  std::vector<std::uint64_t> order_;
  std::size_t next_ = 0;
  bool in_block_ = false;                        ///< that one has begun
  std::vector<std::uint64_t> shared_variables_;  ///< while it waits
};

}  // namespace hostcuda
