#include "kernels/cuda/expert_slabs.hpp"

#include "kernels/cpu_simd.hpp"

#include <algorithm>
#include <cstring>
#include <vector>

namespace coterie {
namespace {

constexpr std::int64_t numbers_at_a_time = std::int64_t{1} << 20;

std::int64_t up_to(std::int64_t number, std::int64_t multiple) {
  return (number + multiple - 1) / multiple;
}

/// Rows [first, first + count) as bf16.
void read_halves(const WeightSource& source, std::int64_t first, std::int64_t count, std::vector<std::uint16_t>& out) {
  out.resize(static_cast<std::size_t>(count * source.cols));
  if (count == 0) return;
  if (source.fits_bf16 && source.read_bf16) {
    source.read_bf16(first, count, out.data());
    return;
  }
  std::vector<float> numbers(out.size());
  source.read(first, count, numbers.data());
  std::ranges::transform(numbers, out.begin(), to_bf16);
}

/// A row of `inputs` numbers to row `row` of a slab: 16 bytes at a time, in the order of matrix_at() (ptx.hpp).
void place_row(const std::uint16_t* from, std::int64_t inputs, std::int64_t row, std::byte* slab) {
  constexpr std::int64_t numbers = 8;
  for (std::int64_t c = 0; c < inputs; c += numbers) {
    const std::int64_t chunk = c % slab_step / numbers;
    std::byte* to = slab + c / slab_step * slab_piece_bytes + row * slab_step * 2 + (chunk ^ row % 8) * 16;
    std::memcpy(to, from + c, static_cast<std::size_t>(std::min(numbers, inputs - c)) * 2);
  }
}

}  // namespace

SlabSizes slab_sizes(std::int64_t outputs, std::int64_t inputs, SlabOrder order) {
  const std::int64_t rows = order == SlabOrder::gated ? up_to(outputs / 2, 8) * 16 : outputs;
  return {up_to(rows, slab_rows), up_to(inputs, slab_step)};
}

void pack_slabs(const WeightSource& source, SlabOrder order,
                const std::function<void(std::int64_t, std::span<const std::byte>)>& write) {
  const SlabSizes sizes = slab_sizes(source.rows, source.cols, order);
  const bool gated = order == SlabOrder::gated;
  const std::int64_t parts = gated ? 2 : 1;  // of the weight: gate and up
  const std::int64_t part_rows = source.rows / parts;
  const std::int64_t rows_a_slab = slab_rows / parts;  // of each part
  const std::int64_t at_a_time = std::max<std::int64_t>(1, numbers_at_a_time / (slab_rows * source.cols));
  std::vector<std::uint16_t> halves;
  std::vector<std::byte> packed;
  for (std::int64_t slab = 0; slab < sizes.slabs; slab += at_a_time) {
    const std::int64_t slabs = std::min(at_a_time, sizes.slabs - slab);
    packed.assign(static_cast<std::size_t>(slabs * sizes.slab_bytes()), std::byte{0});
    const std::int64_t first = slab * rows_a_slab;
    const std::int64_t rows = std::min(slabs * rows_a_slab, part_rows - first);
    for (std::int64_t part = 0; part < parts; ++part) {
      read_halves(source, part * part_rows + first, rows, halves);
      for (std::int64_t r = 0; r < rows; ++r) {
        const std::int64_t row = gated ? r / 8 * 16 + part * 8 + r % 8 : r;
        place_row(halves.data() + r * source.cols, source.cols, row % slab_rows,
                  packed.data() + row / slab_rows * sizes.slab_bytes());
      }
    }
    write(slab * sizes.slab_bytes(), packed);
  }
}

}  // namespace coterie
