// How an expert's weights lie in memory for Hopper's kernels: pieces of 64 outputs x 64 inputs in bf16, each byte for
// byte what shared memory shall hold, so that a plain copy brings it there.
#pragma once

#include "kernels/device.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace coterie {

inline constexpr std::int64_t slab_rows = 64;  ///< outputs of a slab
inline constexpr std::int64_t slab_step = 64;  ///< inputs of a piece of it; a slab's pieces follow each other
inline constexpr std::int64_t slab_piece_bytes = slab_rows * slab_step * 2;

/// The order of a weight's rows in slabs.
enum class SlabOrder {
  plain,
  gated,  ///< eight of gate, then the same eight of up
};

struct SlabSizes {
  std::int64_t slabs = 0;
  std::int64_t pieces = 0;  ///< of each slab
  [[nodiscard]] std::int64_t slab_bytes() const noexcept { return pieces * slab_piece_bytes; }
  [[nodiscard]] std::int64_t bytes() const noexcept { return slabs * slab_bytes(); }
};
/// With what is beyond the weight's ends, which is zeros. Gated: `outputs` are those of gate and up together.
[[nodiscard]] SlabSizes slab_sizes(std::int64_t outputs, std::int64_t inputs, SlabOrder order);

/// write(bytes, slabs): the slabs one after the other, several at a time.
void pack_slabs(const WeightSource& source, SlabOrder order,
                const std::function<void(std::int64_t first_byte, std::span<const std::byte> slabs)>& write);

}  // namespace coterie
