// Gated experts on Hopper: each of the two products is one launch of a kernel whose blocks stay and take tiles, 128
// outputs of an expert x up to 256 of its rows. One thread of a block has copies fill a ring of stages, two warpgroups
// multiply what arrived. Weights are always the left side, so a tile of few rows reads its weights at full width; and a
// number is summed over the inputs in their order, 16 at a time, whatever the tile: it doesn't depend on other rows.
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/expert_slabs.hpp"
#include "kernels/cuda/ptx.hpp"
#include "kernels/cuda/row_maps.hpp"
#include "kernels/require.hpp"

#include <algorithm>
#include <array>
#include <climits>
#include <vector>

namespace coterie {
namespace {

constexpr int tile_rows = 256;  ///< at most
constexpr int few_rows = 16;    ///< at most, of a tile with a box of their own
constexpr int box_rows = 64;    ///< that a copy brings otherwise
constexpr int step_bytes = static_cast<int>(slab_step) * 2;
constexpr int stage_count = 4;
constexpr int tiles_ahead = 2;
constexpr unsigned group_threads = 128;
constexpr unsigned consumers = 2;  ///< warpgroups; each multiplies one of the tile's two slabs
constexpr unsigned block_threads = (1 + consumers) * group_threads;
constexpr int written_rows = 64;   ///< of a tile's result that lie in shared memory at a time
constexpr int written_pitch = 72;  ///< numbers from one of them to the next: keeps the banks apart
constexpr unsigned swizzle_bytes = 1024;

/// The rows of an expert.
struct ExpertTask {
  const std::byte* gate_up;  ///< slabs
  const std::byte* down;
  const Bf16* gate_up_bias;  ///< or none
  const Bf16* down_bias;
  Gating gating;
  int first_row;
  int rows;
  int first_tile;  ///< tiles of the rows before
};

struct ProductSizes {
  int tasks;    ///< one more begins where there are no more tiles
  int slabs;    ///< of a weight
  int steps;    ///< of `slab_step` inputs
  int outputs;  ///< columns of what is written
  bool wide;    ///< rows of what is written lie on 16 bytes
  bool operator==(const ProductSizes&) const = default;
};

struct Tile {
  int task;  ///< -1: there are no more
  int first_row;
  int rows;
  int column;  ///< pairs of slabs before it
};

struct Stage {
  std::byte weights[consumers][slab_piece_bytes];
  std::byte rows[tile_rows * step_bytes];
};

struct Shared {
  Stage stages[stage_count];
  Bf16 written[consumers][written_rows * written_pitch];
  Tile tiles[tiles_ahead];
  Barrier filled[stage_count], emptied[stage_count];
  Barrier announced[tiles_ahead], seen[tiles_ahead];
};
constexpr std::size_t shared_bytes = sizeof(Shared) + swizzle_bytes;

/// The place in a ring, and how often one went round.
struct Place {
  int index = 0;
  unsigned parity = 0;
  __device__ void next(int size) {
    if (++index < size) return;
    index = 0;
    parity ^= 1;
  }
};

/// The rows that a tile multiplies: some sizes, so that the rest of an expert's rows costs no more than it must.
__device__ inline int padded(int rows) {
  return rows <= few_rows ? few_rows : rows <= 64 ? 64 : rows <= 128 ? 128 : rows <= 192 ? 192 : tile_rows;
}

/// Tiles of the same weights follow each other: others read them from the cache.
__device__ Tile find_tile(const ExpertTask* tasks, const ProductSizes& sizes, int number) {
  const int across = (sizes.slabs + 1) / 2;
  int low = 0;
  int high = sizes.tasks;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (tasks[middle].first_tile * across <= number) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  if (low == sizes.tasks) return {-1, 0, 0, 0};
  const int within = number - tasks[low].first_tile * across;
  const int down = (tasks[low].rows + tile_rows - 1) / tile_rows;
  const int first = within % down * tile_rows;
  return {low, tasks[low].first_row + first, min(tile_rows, tasks[low].rows - first), within / down};
}

/// One thread: tiles, and copies of what they multiply.
template <bool gated>
__device__ void produce(Shared& shared, const RowMaps& maps, const ExpertTask* tasks, const ProductSizes& sizes,
                        int* taken) {
  Place stage;
  Place ahead;
  int number = static_cast<int>(blockIdx.x);
  while (true) {
    const Tile tile = find_tile(tasks, sizes, number);
    shared.seen[ahead.index].wait(ahead.parity ^ 1);
    shared.tiles[ahead.index] = tile;
    shared.announced[ahead.index].arrive();
    ahead.next(tiles_ahead);
    if (tile.task < 0) return;
    number = static_cast<int>(gridDim.x) + atomicAdd(taken, 1);
    const std::byte* weights = gated ? tasks[tile.task].gate_up : tasks[tile.task].down;
    const std::int64_t slab_bytes = sizes.steps * slab_piece_bytes;
    weights += 2 * tile.column * slab_bytes;
    const int slabs = min(2, sizes.slabs - 2 * tile.column);
    const int rows = padded(tile.rows);
    const auto bytes = static_cast<unsigned>(slabs * slab_piece_bytes + rows * step_bytes);
    for (int s = 0; s < sizes.steps; ++s, stage.next(stage_count)) {
      Stage& to = shared.stages[stage.index];
      Barrier& filled = shared.filled[stage.index];
      shared.emptied[stage.index].wait(stage.parity ^ 1);
      filled.arrive_expecting(bytes);
      for (int i = 0; i < slabs; ++i) {
        copy_bulk(to.weights[i], weights + i * slab_bytes + s * slab_piece_bytes, slab_piece_bytes, filled);
      }
      const int column = s * static_cast<int>(slab_step);
      if (rows == few_rows) {
        copy_box(to.rows, maps.few, column, tile.first_row, filled);
        continue;
      }
      for (int r = 0; r < rows; r += box_rows) {
        copy_box(to.rows + r * step_bytes, maps.many, column, tile.first_row + r, filled);
      }
    }
  }
}

/// What a warpgroup knows of the product when it writes a tile.
struct Output {
  Matrix<Bf16> to;  ///< its first row is the tile's
  int rows;
  int first_output;  ///< of the warpgroup's slab
  int outputs;       ///< of all
  const Bf16* bias;
  Gating gating;
  bool wide;
};

__device__ inline float gated_number(float gate, float up, const Gating& gating) {
  if (gating.limit > 0) {
    gate = gate > gating.limit ? gating.limit : gate;
    up = up > gating.limit ? gating.limit : up < -gating.limit ? -gating.limit : up;
  }
  return (up + gating.offset) * __fdividef(gate, 1.0F + __expf(-gating.alpha * gate));
}

/// Sums of 64 outputs (of gate and up: 32) x Rows to global memory, through shared memory, as rows of the result.
template <int Rows, bool gated>
__device__ void write_tile(const float (&sums)[Rows / 2], const Output& out, Bf16* written, unsigned group) {
  constexpr int across = static_cast<int>(slab_rows) / (gated ? 2 : 1);
  constexpr int rows_at_a_time = Rows < written_rows ? Rows : written_rows;
  constexpr int numbers = 8;  // that a thread writes at a time
  const int thread = static_cast<int>(threadIdx.x % group_threads);
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int first = gated ? warp * 8 : warp * 16;  // of the slab's outputs, the warp's
  float bias[2] = {0, 0};                          // of gate and up, or of an output and that eight further on
  for (int i = 0; i < 2 && out.bias != nullptr; ++i) {
    const int output = out.first_output + first + lane / 4 + (gated ? 0 : i * 8);
    if (output < out.outputs) bias[i] = to_float(out.bias[gated ? i * out.outputs + output : output]);
  }
#pragma unroll
  for (int row = 0; row < Rows; row += rows_at_a_time) {  // unrolled: sums are registers
    if (row >= out.rows) continue;
    sync_some(group, group_threads);  // what was written is read
#pragma unroll
    for (int r = 0; r < rows_at_a_time; r += gated ? 16 : 8) {
      const int at = (row + r) / 2;
      std::uint32_t halves[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const auto number = [&](int column) {
          return gated ? gated_number(sums[at + 4 * i + column] + bias[0], sums[at + 4 * i + 2 + column] + bias[1],
                                      out.gating)
                       : sums[at + 2 * i + column] + bias[i];
        };
        halves[i] = packed_bf16(number(0), number(1));
      }
      const int to_row = r + lane % 8 + (gated ? lane / 8 % 2 * 8 : 0);
      const int to_output = first + (gated ? 0 : lane / 8 % 2 * 8);
      store_transposed(written + to_row * written_pitch + to_output, halves[0], halves[1]);
    }
    sync_some(group, group_threads);
    constexpr int pieces = across / numbers;
    for (int i = thread; i < rows_at_a_time * pieces; i += static_cast<int>(group_threads)) {
      const int r = row + i / pieces;
      const int c = i % pieces * numbers;
      if (r >= out.rows) break;
      const Bf16* from = written + i / pieces * written_pitch + c;
      Bf16* to = out.to.row(r) + out.first_output + c;
      if (out.wide && out.first_output + c + numbers <= out.outputs) {
        *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
      } else {
        for (int n = 0; n < numbers && out.first_output + c + n < out.outputs; ++n) to[n] = from[n];
      }
    }
  }
}

/// A warpgroup's half of a tile.
template <int Rows, bool gated>
__device__ void compute_tile(Shared& shared, unsigned consumer, Place& stage, int steps, const Output& out) {
  float sums[Rows / 2] = {};
  const bool elected = threadIdx.x % 32 == 0;
  Place last = stage;
  for (int s = 0; s < steps; ++s, stage.next(stage_count)) {
    shared.filled[stage.index].wait(stage.parity);
    const std::uint64_t weights = matrix_at(shared_address(shared.stages[stage.index].weights[consumer]));
    const std::uint64_t rows = matrix_at(shared_address(shared.stages[stage.index].rows));
    products_fence(sums);
#pragma unroll
    for (unsigned k = 0; k < 4; ++k) multiply_async<Rows>(sums, weights + k * 2, rows + k * 2);  // 32 bytes further on
    products_commit();
    if (s > 0) {
      products_wait<1>();
      __syncwarp();
      if (elected) shared.emptied[last.index].arrive();
    }
    last = stage;
  }
  products_wait<0>();
  products_ended(sums);
  __syncwarp();
  if (elected) shared.emptied[last.index].arrive();
  write_tile<Rows, gated>(sums, out, shared.written[consumer], 1 + consumer);
}

/// The half of a tile that lies beyond the weight's last slab.
__device__ void skip_tile(Shared& shared, Place& stage, int steps) {
  for (int s = 0; s < steps; ++s, stage.next(stage_count)) {
    shared.filled[stage.index].wait(stage.parity);
    __syncwarp();
    if (threadIdx.x % 32 == 0) shared.emptied[stage.index].arrive();
  }
}

template <bool gated>
__device__ void consume(Shared& shared, unsigned consumer, const ExpertTask* tasks, const ProductSizes& sizes,
                        Matrix<Bf16> to) {
  Place stage;
  Place ahead;
  while (true) {
    shared.announced[ahead.index].wait(ahead.parity);
    const Tile tile = shared.tiles[ahead.index];
    __syncwarp();
    if (threadIdx.x % 32 == 0) shared.seen[ahead.index].arrive();
    ahead.next(tiles_ahead);
    if (tile.task < 0) return;
    const int slab = 2 * tile.column + static_cast<int>(consumer);
    if (slab >= sizes.slabs) {
      skip_tile(shared, stage, sizes.steps);
      continue;
    }
    const ExpertTask& task = tasks[tile.task];
    const int outputs_a_slab = static_cast<int>(slab_rows) / (gated ? 2 : 1);
    const Output out{{to.row(tile.first_row), to.stride},
                     tile.rows,
                     slab * outputs_a_slab,
                     sizes.outputs,
                     gated ? task.gate_up_bias : task.down_bias,
                     task.gating,
                     sizes.wide};
    switch (padded(tile.rows)) {
      case few_rows:
        compute_tile<few_rows, gated>(shared, consumer, stage, sizes.steps, out);
        break;
      case 64:
        compute_tile<64, gated>(shared, consumer, stage, sizes.steps, out);
        break;
      case 128:
        compute_tile<128, gated>(shared, consumer, stage, sizes.steps, out);
        break;
      case 192:
        compute_tile<192, gated>(shared, consumer, stage, sizes.steps, out);
        break;
      default:
        compute_tile<tile_rows, gated>(shared, consumer, stage, sizes.steps, out);
    }
  }
}

/// gated: to = gating(rows * gate_up^T); otherwise to = rows * down^T.
template <bool gated>
__global__ void __launch_bounds__(block_threads, 1)
    multiply_experts(const __grid_constant__ RowMaps maps, const ExpertTask* tasks, ProductSizes sizes, int* taken,
                     Matrix<Bf16> to) {
  auto* memory = reinterpret_cast<std::byte*>(dynamic_shared_floats());
  memory += (swizzle_bytes - shared_address(memory) % swizzle_bytes) % swizzle_bytes;
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  constexpr unsigned consumer_warps = consumers * group_threads / 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < stage_count; ++i) {
      shared.filled[i].init(1);
      shared.emptied[i].init(consumer_warps);
    }
    for (int i = 0; i < tiles_ahead; ++i) {
      shared.announced[i].init(1);
      shared.seen[i].init(consumer_warps);
    }
    fence_barriers();
  }
  __syncthreads();
  const unsigned group = threadIdx.x / group_threads;
  if (group == 0) {
    keep_registers<40>();
    if (threadIdx.x == 0) produce<gated>(shared, maps, tasks, sizes, taken);
  } else {
    take_registers<232>();
    consume<gated>(shared, group - 1, tasks, sizes, to);
  }
}

/// The tasks of rows that the device alone knows, by one block.
__global__ void __launch_bounds__(group_threads)
    fill_tasks(const ExpertPointers* experts, const std::int32_t* first, int count, ExpertTask* tasks, int* taken) {
  int tiles = 0;  // of the experts before
  for (int some = 0; some < count; some += static_cast<int>(group_threads)) {
    const int e = some + static_cast<int>(threadIdx.x);
    const int rows = e < count ? first[e + 1] - first[e] : 0;
    int of_some = 0;
    const int before = tiles + block_sum_before<group_threads>((rows + tile_rows - 1) / tile_rows, of_some);
    tiles += of_some;
    if (e >= count) continue;
    const ExpertPointers& expert = experts[e];
    tasks[e] = {expert.gate_up,
                expert.down,
                reinterpret_cast<const Bf16*>(expert.gate_up_bias),
                reinterpret_cast<const Bf16*>(expert.down_bias),
                expert.gating,
                first[e],
                rows,
                before};
  }
  if (threadIdx.x == 0) tasks[count].first_tile = tiles;
  if (threadIdx.x < 2) taken[threadIdx.x] = 0;
}

/// Rows whose memory copies can't read, in memory that they can.
__global__ void align_rows(Matrix<const Bf16> in, std::int64_t cols, Matrix<Bf16> out) {
  for (std::int64_t c = threadIdx.x; c < cols; c += blockDim.x) out.row(blockIdx.x)[c] = in.row(blockIdx.x)[c];
}

bool is_wide(const Tensor& tensor) {
  return reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0 && tensor.stride % 8 == 0;
}

}  // namespace

/// Tasks in device memory, and one more.
struct CudaDevice::WgmmaTasks {
  const ExpertTask* tasks;
  int* taken;  ///< (2): zeros
  int count;
  std::int64_t row_tiles;  ///< at most
};

void CudaDevice::multiply_by_wgmma(const Tensor& in, const Tensor& hidden, const WgmmaTasks& tasks, const Tensor& out) {
  const auto run = [&](auto kernel, const Tensor& rows, const SlabSizes& weight, const Tensor& to, int* counter) {
    const ProductSizes sizes{tasks.count, static_cast<int>(weight.slabs), static_cast<int>(weight.pieces),
                             static_cast<int>(to.cols), is_wide(to)};
    const std::int64_t tiles = tasks.row_tiles * ((weight.slabs + 1) / 2);
    require(tiles <= INT_MAX, "experts: more tiles than a call may have");
    allow_shared(kernel, shared_bytes);
    launch(kernel, static_cast<unsigned>(std::min<std::int64_t>(tiles, processors_)), block_threads, shared_bytes,
           stream_, RowMaps(rows, box_rows, few_rows), tasks.tasks, sizes, counter, as_matrix<Bf16>(to));
  };
  const std::int64_t width = hidden.cols;
  run(multiply_experts<true>, in, slab_sizes(2 * width, in.cols, SlabOrder::gated), hidden, tasks.taken);
  run(multiply_experts<false>, hidden, slab_sizes(in.cols, width, SlabOrder::plain), out, tasks.taken + 1);
}

void CudaDevice::experts_by_wgmma(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out) {
  const std::int64_t width = groups.front().expert->down->in_features();
  require(in.rows <= INT_MAX, "experts: more rows than a call may have");
  std::vector<ExpertTask> tasks;
  int row_tiles = 0;
  for (const ExpertRows& group : groups) {
    if (group.rows == 0) continue;
    const ExpertWeights& expert = *group.expert;
    tasks.push_back({expert.gate_up->bytes().data(), expert.down->bytes().data(),
                     reinterpret_cast<const Bf16*>(expert.gate_up_bias.view.data),
                     reinterpret_cast<const Bf16*>(expert.down_bias.view.data), expert.gating,
                     static_cast<int>(group.first_row), static_cast<int>(group.rows), row_tiles});
    row_tiles += static_cast<int>((group.rows + tile_rows - 1) / tile_rows);
  }
  ExpertTask none{};
  none.first_tile = row_tiles;
  const bool several = tasks.size() > 1;
  const std::int64_t count = several ? room_for(std::ssize(tasks)) : 1;
  tasks.resize(static_cast<std::size_t>(count) + 1, none);
  const std::int64_t most_tiles = several ? in.rows / tile_rows + std::min(in.rows, count) : row_tiles;
  const std::int64_t hidden_stride = CudaMatrix::stride_of(width);
  const std::int64_t in_stride = is_wide(in) ? 0 : CudaMatrix::stride_of(in.cols);  // of a copy
  Bf16* numbers = hidden_.get<Bf16>(in.rows * (hidden_stride + in_stride));
  const Tensor hidden{reinterpret_cast<std::byte*>(numbers), DType::bf16, in.rows, width, hidden_stride};
  Tensor aligned = in;
  if (in_stride > 0) {
    aligned = {reinterpret_cast<std::byte*>(numbers + in.rows * hidden_stride), DType::bf16, in.rows, in.cols,
               in_stride};
    launch(align_rows, static_cast<unsigned>(in.rows), group_threads, 0, stream_, as_matrix<const Bf16>(in), in.cols,
           as_matrix<Bf16>(aligned));
  }
  const ExpertTask* table = rows_.put(std::span<const ExpertTask>(tasks));
  constexpr std::array<int, 2> zeros{};
  int* taken = more_rows_.get<int>(zeros.size());
  send(zeros.data(), sizeof zeros, taken);  // kernels count there
  multiply_by_wgmma(aligned, hidden, {table, taken, static_cast<int>(count), most_tiles}, out);
}

void CudaDevice::groups_by_wgmma(const Tensor& in, const RowGroups& groups, const CudaExpertSet& experts,
                                 const Tensor& out) {
  const std::int64_t width = experts.any().down->in_features();
  require(in.rows <= INT_MAX, "experts: more rows than a call may have");
  const std::int64_t stride = CudaMatrix::stride_of(width);
  const Tensor hidden{reinterpret_cast<std::byte*>(hidden_.get<Bf16>(in.rows * stride)), DType::bf16, in.rows, width,
                      stride};
  const int count = experts.count();
  ExpertTask* tasks = products_.get<ExpertTask>(count + 1);
  int* taken = more_rows_.get<int>(2);
  launch(fill_tasks, 1, group_threads, 0, stream_, experts.table(), groups.first, count, tasks, taken);
  const std::int64_t most_tiles = in.rows / tile_rows + std::min<std::int64_t>(in.rows, count);
  multiply_by_wgmma(in, hidden, {tasks, taken, count, most_tiles}, out);
}

}  // namespace coterie
