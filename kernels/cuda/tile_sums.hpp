// Device code of products with weights: the sums of a tile of the output, over the inputs in their order, 16 at a time
// in bf16, whatever the tile's form.
#pragma once

#include "kernels/cuda/mma.hpp"

#include <algorithm>

namespace coterie {

constexpr unsigned product_threads = 128;

/// A product as kernels see it.
template <class T, class Weight, class Out>
struct Task {
  Matrix<const T> in;
  const Weight* weight;
  std::int64_t weight_stride;
  Matrix<Out> out;
  std::int64_t rows;
  std::int64_t columns;  ///< of the output
  std::int64_t depth;
  std::int64_t first_tile;    ///< tiles of the tasks before it
  const std::int32_t* index;  ///< (rows): which rows of `in` they are; none: the first ones
};

/// A block's tile in bf16: its warps share it as warps_down x warps_across. Inputs and weights come in a ring of
/// stages, `step` inputs each: in stages to come there must be enough on its way to keep the memory busy.
template <int Rows, int Columns, int Step, int Stages, int WarpsDown, int WarpsAcross>
struct TileInBf16 {
  static constexpr int rows = Rows, columns = Columns, step = Step, stages = Stages;
  static constexpr int warps_down = WarpsDown, warps_across = WarpsAcross;
  static constexpr int stride = step + 8;  ///< numbers: keeps the banks apart
  static constexpr std::size_t shared_bytes =
      std::max(std::size_t{stages * (rows + columns) * stride} * sizeof(Bf16), sizeof(float) * rows * columns);
  static_assert(warps_down * warps_across <= static_cast<int>(product_threads) / 32);
};
/// One in f32: each thread has a column, and a share of the rows.
template <int Rows>
struct TileInF32 {
  static constexpr int rows = Rows, columns = 64, step = 32;
  static constexpr int stride = step + 1;
  static constexpr std::size_t shared_bytes = sizeof(float) * std::max((rows + columns) * stride, rows* columns);
};

/// For each type of weight: of up to 16 rows, of up to 64, of more. Few rows read weights, so tiles are narrow and
/// many; many rows multiply, so that tiles are square.
template <class Weight>
struct TileForms {
  using Few = TileInBf16<16, 32, 64, 6, 1, 2>;
  using Some = TileInBf16<64, 64, 64, 5, 2, 2>;
  using Many = TileInBf16<128, 128, 32, 4, 2, 2>;
};
template <>
struct TileForms<float> {
  using Few = TileInF32<16>;
  using Some = TileInF32<64>;
  using Many = Some;
};

/// Brings `Rows` rows of a matrix, `Step` numbers of each at a time, to shared memory: 16 bytes a thread and copy.
template <int Rows, int Step, class From>
class RowLoader {
 public:
  /// Of rows [first, last) those that `index` names, if there is one. `padded`: rows go on with zeros to a multiple of
  /// 16 bytes.
  __device__ RowLoader(const Matrix<const From>& from, const std::int32_t* index, std::int64_t first, std::int64_t last,
                       std::int64_t depth, bool padded)
      : some_(from.data), depth_(depth), by_copies_(can_copy(from) && (padded || depth % numbers == 0)) {
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      const std::int64_t r = first + row(i);
      rows_[i] = r < last ? from.row(index == nullptr ? r : std::int64_t{index[r]}) : nullptr;
    }
  }
  /// Numbers from `column` on, beyond the end zeros; they are there after the copies' wait and a barrier.
  __device__ void load(std::int64_t column, Bf16* tile, int stride) const {
    const std::int64_t c = column + first_number();
#pragma unroll
    for (int i = 0; i < pieces; ++i) {
      Bf16* to = tile + row(i) * stride + first_number();
      const bool real = rows_[i] != nullptr && c < depth_;
      if (by_copies_) {
        copy_async(to, real ? rows_[i] + c : some_, real);
      } else {
#pragma unroll 1
        for (int n = 0; n < numbers; ++n) {
          to[n] = from_float<Bf16>(real && c + n < depth_ ? to_float(rows_[i][c + n]) : 0.0F);
        }
      }
    }
  }

 private:
  static constexpr int numbers = 8;
  static constexpr int across = Step / numbers;  ///< pieces of a row
  static constexpr int down = static_cast<int>(product_threads) / across;
  static constexpr int pieces = Rows / down;  ///< of a thread, one below the other
  static_assert(Rows % down == 0);

  static __device__ bool can_copy(const Matrix<const From>& from) {
    return std::is_same_v<From, Bf16> && reinterpret_cast<std::uintptr_t>(from.data) % 16 == 0 &&
           from.stride % numbers == 0;
  }
  static __device__ int row(int piece) {
    return piece * down + static_cast<int>(threadIdx.x) / across;
  }
  static __device__ int first_number() {
    return static_cast<int>(threadIdx.x) % across * numbers;
  }

  const From* rows_[pieces];
  const From* some_;  ///< an address to name where nothing is read
  std::int64_t depth_;
  bool by_copies_;
};

template <class Form, class T, class Out>
__device__ void sum_tile(const Task<T, Bf16, Out>& task, std::int64_t row, std::int64_t column, float* memory) {
  constexpr int stride = Form::stride, stages = Form::stages;
  constexpr int stage_numbers = (Form::rows + Form::columns) * stride;
  constexpr int down = Form::rows / 16 / Form::warps_down, across = Form::columns / 16 / Form::warps_across;
  auto* ring = reinterpret_cast<Bf16*>(memory);
  const RowLoader<Form::rows, Form::step, T> in(task.in, task.index, row, task.rows, task.depth, false);
  const RowLoader<Form::columns, Form::step, Bf16> weight({task.weight, task.weight_stride}, nullptr, column,
                                                          task.columns, task.depth, true);
  const auto load = [&](int step) {
    const std::int64_t first = std::int64_t{step} * Form::step;
    if (first < task.depth) {
      Bf16* stage = ring + step % stages * stage_numbers;
      in.load(first, stage, stride);
      weight.load(first, stage + Form::rows * stride, stride);
    }
    copies_commit();  // empty at the end, so that the wait below counts alike
  };
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const bool sums_up = warp < Form::warps_down * Form::warps_across;
  const int my_row = warp / Form::warps_across * down * 16;
  const int my_column = warp % Form::warps_across * across * 16;
  float total[down][across][8] = {};
  const auto steps = static_cast<int>((task.depth + Form::step - 1) / Form::step);
  for (int s = 0; s < stages - 1; ++s) load(s);
  for (int s = 0; s < steps; ++s) {
    copies_wait<stages - 2>();
    __syncthreads();  // the stage has come, and all have read the one that is filled next
    load(s + stages - 1);
    if (!sums_up) continue;
    const Bf16* rows = ring + s % stages * stage_numbers + my_row * stride;
    const Bf16* columns = ring + s % stages * stage_numbers + (Form::rows + my_column) * stride;
#pragma unroll
    for (int part = 0; part < Form::step; part += 16) {
      LeftMatrix left[down];
#pragma unroll
      for (int d = 0; d < down; ++d) load_left(left[d], rows + d * 16 * stride + part, stride);
#pragma unroll
      for (int a = 0; a < across; ++a) {
        RightMatrix right;
        load_right(right, columns + a * 16 * stride + part, stride);
#pragma unroll
        for (int d = 0; d < down; ++d) multiply(total[d][a], left[d], right);
      }
    }
  }
  __syncthreads();  // the stages are read: the sums take their place
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int d = 0; d < down; ++d) {
#pragma unroll
    for (int a = 0; a < across; ++a) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int r = my_row + d * 16 + lane / 4 + i / 2 % 2 * 8;
        const int c = my_column + a * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2;
        if (sums_up) memory[r * Form::columns + c] = total[d][a][i];
      }
    }
  }
  __syncthreads();
}

/// `Rows` rows from `first` on, `step` numbers each from `column` on, to shared memory; beyond the end zeros.
template <class Form, int Rows, class From>
__device__ void load_f32(const From* from, std::int64_t stride, const std::int32_t* index, std::int64_t first,
                         std::int64_t rows, std::int64_t column, std::int64_t depth, float* tile) {
  for (int i = static_cast<int>(threadIdx.x); i < Rows * Form::step; i += static_cast<int>(product_threads)) {
    const std::int64_t r = first + i / Form::step;
    const std::int64_t c = column + i % Form::step;
    float value = 0;
    if (r < rows && c < depth) value = to_float(from[(index == nullptr ? r : std::int64_t{index[r]}) * stride + c]);
    tile[i / Form::step * Form::stride + i % Form::step] = value;
  }
}

template <class Form, class T, class Out>
__device__ void sum_tile(const Task<T, float, Out>& task, std::int64_t row, std::int64_t column, float* memory) {
  float* in = memory;
  float* weight = memory + Form::rows * Form::stride;
  constexpr int shares = static_cast<int>(product_threads) / Form::columns;
  constexpr int mine = Form::rows / shares;
  const int my_column = static_cast<int>(threadIdx.x) % Form::columns;
  const int my_row = static_cast<int>(threadIdx.x) / Form::columns * mine;
  float total[mine] = {};
  for (std::int64_t k = 0; k < task.depth; k += Form::step) {
    load_f32<Form, Form::rows>(task.in.data, task.in.stride, task.index, row, task.rows, k, task.depth, in);
    load_f32<Form, Form::columns>(task.weight, task.weight_stride, nullptr, column, task.columns, k, task.depth,
                                  weight);
    __syncthreads();
    for (int i = 0; i < Form::step; ++i) {
      const float w = weight[my_column * Form::stride + i];
      for (int r = 0; r < mine; ++r) total[r] = fmaf(in[(my_row + r) * Form::stride + i], w, total[r]);
    }
    __syncthreads();
  }
  for (int r = 0; r < mine; ++r) memory[(my_row + r) * Form::columns + my_column] = total[r];
  __syncthreads();
}

}  // namespace coterie
