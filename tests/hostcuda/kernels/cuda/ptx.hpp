// Stands in for the header of the same name (kernels/cuda/ptx.hpp), which says what these do. As little as a GPU may
// do is done: copies end at some time while threads wait, in any order; products are computed when a thread waits for
// them, from what shared memory then holds.
#pragma once

#include "kernels/cuda/gpu.hpp"
#include "tests/hostcuda/cuda.h"

namespace coterie {

[[nodiscard]] std::uint32_t shared_address(const void* shared);

class Barrier {
 public:
  void init(unsigned arrivals);
  void arrive();
  void arrive_expecting(unsigned bytes);
  void wait(unsigned parity);
  /// What a copy does at its end.
  void end_bytes(unsigned bytes);

 private:
  void end_phase();
  std::int32_t bytes_;
  std::uint16_t pending_;
  std::uint16_t arrivals_ : 15;
  std::uint16_t parity_ : 1;
};
static_assert(sizeof(Barrier) == 8);

void fence_barriers();
void copy_bulk(void* shared, const void* global, unsigned bytes, Barrier& ended);
void copy_box(void* shared, const CUtensorMap& map, int column, int row, Barrier& ended);

/// Bits 0 to 13: address / 16; 16 to 29: unused with this swizzle; 32 to 45: bytes between groups of eight rows / 16;
/// 62 and 63: the swizzle, 1.
[[nodiscard]] inline std::uint64_t matrix_at(std::uint32_t address) {
  return std::uint64_t{(address & 0x3ffffU) >> 4} | std::uint64_t{1} << 16 | std::uint64_t{1024 >> 4} << 32 |
         std::uint64_t{1} << 62;
}

namespace hopper {
void fence_products();
void multiply(float* sums, int columns, std::uint64_t left, std::uint64_t right);
void wait_for_products(std::size_t groups);
}  // namespace hopper

template <int Count>
void products_fence(float (&)[Count]) {
  hopper::fence_products();
}
template <int Count>
void products_ended(float (&)[Count]) {}
void products_commit();
template <int Groups>
void products_wait() {
  hopper::wait_for_products(Groups);
}
template <int Columns>
void multiply_async(float (&sums)[Columns / 2], std::uint64_t left, std::uint64_t right) {
  static_assert(Columns % 8 == 0 && Columns <= 256);
  hopper::multiply(sums, Columns, left, right);
}

[[nodiscard]] std::uint32_t packed_bf16(float low, float high);
void store_transposed(void* shared, std::uint32_t first, std::uint32_t second);
void sync_some(unsigned barrier, unsigned threads);
template <int Count>
void keep_registers() {
  static_assert(Count % 8 == 0);
}
template <int Count>
void take_registers() {
  static_assert(Count % 8 == 0);
}

}  // namespace coterie
