// A GPU's products with weights: one launch for any number of products, each cut into tiles. A number of the output is
// summed over the inputs in their order, 16 at a time in bf16, whatever the tile's height: a row's result doesn't
// depend on the rows beside it.
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/require.hpp"

#include <mma.h>

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

namespace coterie {
namespace {

constexpr int tile_columns = 64;
constexpr int step = 32;  ///< inputs that lie in shared memory at a time
constexpr unsigned product_threads = 128;
constexpr int few_rows = 16;
constexpr int many_rows = 64;

/// A product as the kernel sees it.
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

/// `Rows` rows from `first` on, `step` numbers each from `column` on, to shared memory; beyond the end zeros.
template <int Rows, class From, class To>
__device__ void load_tile(const From* from, std::int64_t stride, const std::int32_t* index, std::int64_t first,
                          std::int64_t rows, std::int64_t column, std::int64_t depth, To* tile, int tile_stride) {
  for (int i = static_cast<int>(threadIdx.x); i < Rows * step; i += product_threads) {
    const std::int64_t r = first + i / step;
    const std::int64_t c = column + i % step;
    To value = from_float<To>(0);
    if (r < rows && c < depth) {
      value = from_float<To>(to_float(from[(index == nullptr ? r : std::int64_t{index[r]}) * stride + c]));
    }
    tile[i / step * tile_stride + i % step] = value;
  }
}

/// Sums of a tile in bf16: each warp has 16 rows (of many) or 16 columns (of few).
template <int Rows, class TaskType>
__device__ void sum_bf16(const TaskType& task, std::int64_t row, std::int64_t column, float* sums) {
  using namespace nvcuda;
  constexpr int stride = step + 8;  // keeps the banks apart
  alignas(32) __shared__ Bf16 in[Rows * stride];
  alignas(32) __shared__ Bf16 weight[tile_columns * stride];
  constexpr int across = Rows == many_rows ? tile_columns / 16 : 1;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int my_row = Rows == many_rows ? warp * 16 : 0;
  const int my_column = Rows == many_rows ? 0 : warp * 16;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> total[across];
  for (int a = 0; a < across; ++a) wmma::fill_fragment(total[a], 0.0F);
  for (std::int64_t k = 0; k < task.depth; k += step) {
    load_tile<Rows>(task.in.data, task.in.stride, task.index, row, task.rows, k, task.depth, in, stride);
    load_tile<tile_columns>(task.weight, task.weight_stride, nullptr, column, task.columns, k, task.depth, weight,
                            stride);
    __syncthreads();
    for (int part = 0; part < step; part += 16) {
      wmma::fragment<wmma::matrix_a, 16, 16, 16, Bf16, wmma::row_major> a;
      wmma::load_matrix_sync(a, in + my_row * stride + part, stride);
      for (int i = 0; i < across; ++i) {
        wmma::fragment<wmma::matrix_b, 16, 16, 16, Bf16, wmma::col_major> b;
        wmma::load_matrix_sync(b, weight + (my_column + i * 16) * stride + part, stride);
        wmma::mma_sync(total[i], a, b, total[i]);
      }
    }
    __syncthreads();
  }
  for (int i = 0; i < across; ++i) {
    wmma::store_matrix_sync(sums + my_row * tile_columns + my_column + i * 16, total[i], tile_columns,
                            wmma::mem_row_major);
  }
  __syncthreads();
}

/// Sums of a tile in f32: each thread has one column, and half of the rows.
template <int Rows, class TaskType>
__device__ void sum_f32(const TaskType& task, std::int64_t row, std::int64_t column, float* sums) {
  constexpr int stride = step + 1;  // keeps the banks apart
  __shared__ float in[Rows * stride];
  __shared__ float weight[tile_columns * stride];
  constexpr int halves = product_threads / tile_columns;
  constexpr int mine = Rows / halves;
  const int my_column = static_cast<int>(threadIdx.x) % tile_columns;
  const int my_row = static_cast<int>(threadIdx.x) / tile_columns * mine;
  float total[mine] = {};
  for (std::int64_t k = 0; k < task.depth; k += step) {
    load_tile<Rows>(task.in.data, task.in.stride, task.index, row, task.rows, k, task.depth, in, stride);
    load_tile<tile_columns>(task.weight, task.weight_stride, nullptr, column, task.columns, k, task.depth, weight,
                            stride);
    __syncthreads();
    for (int i = 0; i < step; ++i) {
      const float w = weight[my_column * stride + i];
      for (int r = 0; r < mine; ++r) total[r] = fmaf(in[(my_row + r) * stride + i], w, total[r]);
    }
    __syncthreads();
  }
  for (int r = 0; r < mine; ++r) sums[(my_row + r) * tile_columns + my_column] = total[r];
  __syncthreads();
}

/// The last task whose first tile is at most `tile`.
template <class TaskType>
__device__ const TaskType& find_task(const TaskType* tasks, int count, std::int64_t tile) {
  int low = 0;
  int high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (tasks[middle].first_tile <= tile) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return tasks[low];
}

/// `only`: without tasks, the one that there is.
template <int Rows, class T, class Weight, class Out>
__global__ void __launch_bounds__(product_threads)
    multiply_tiles(const __grid_constant__ Task<T, Weight, Out> only, const Task<T, Weight, Out>* tasks, int count,
                   bool accumulate) {
  alignas(32) __shared__ float sums[Rows * tile_columns];  // as wmma stores them
  const Task<T, Weight, Out>& task = tasks == nullptr ? only : find_task(tasks, count, std::int64_t{blockIdx.x});
  // Tiles of the same columns follow each other: they read the same weights.
  const std::int64_t tile = blockIdx.x - task.first_tile;
  const std::int64_t down = (task.rows + Rows - 1) / Rows;
  if (tile >= down * ((task.columns + tile_columns - 1) / tile_columns)) return;  // more blocks than tiles
  const std::int64_t row = tile % down * Rows;
  const std::int64_t column = tile / down * tile_columns;
  if constexpr (std::is_same_v<Weight, Bf16>) {
    sum_bf16<Rows>(task, row, column, sums);
  } else {
    sum_f32<Rows>(task, row, column, sums);
  }
  for (int i = static_cast<int>(threadIdx.x); i < Rows * tile_columns; i += product_threads) {
    const std::int64_t r = row + i / tile_columns;
    const std::int64_t c = column + i % tile_columns;
    if (r >= task.rows || c >= task.columns) continue;
    Out* to = task.out.row(r) + c;
    *to = from_float<Out>(accumulate ? to_float(*to) + sums[i] : sums[i]);
  }
}

/// hidden = gating(gate_up + bias); block (r, group) takes row r of a group.
struct GatedGroup {
  std::int64_t first_row;
  std::int64_t rows;
  const void* bias;  ///< (2 * width) as the activations, or none
  Gating gating;
};

template <class T, class From = float>
__global__ void gate_rows(const GatedGroup* groups, Matrix<const From> gate_up, std::int64_t width, Matrix<T> hidden) {
  const GatedGroup& group = groups[blockIdx.y];
  const T* bias = static_cast<const T*>(group.bias);
  const Gating& gating = group.gating;
  for (std::int64_t r = blockIdx.x; r < group.rows; r += gridDim.x) {
    const From* from = gate_up.row(group.first_row + r);
    T* to = hidden.row(group.first_row + r);
    for (std::int64_t c = threadIdx.x; c < width; c += product_threads) {
      float gate = to_float(from[c]);
      float up = to_float(from[width + c]);
      if (bias != nullptr) {
        gate += to_float(bias[c]);
        up += to_float(bias[width + c]);
      }
      if (gating.limit > 0) {
        gate = gate > gating.limit ? gating.limit : gate;
        up = up > gating.limit ? gating.limit : up < -gating.limit ? -gating.limit : up;
      }
      to[c] = from_float<T>((up + gating.offset) * (gate / (1.0F + expf(-gating.alpha * gate))));
    }
  }
}

/// The same for the bias of down.
template <class T>
__global__ void add_group_bias(const GatedGroup* groups, Matrix<T> out, std::int64_t columns) {
  const GatedGroup& group = groups[blockIdx.y];
  const T* bias = static_cast<const T*>(group.bias);
  if (bias == nullptr) return;
  for (std::int64_t r = blockIdx.x; r < group.rows; r += gridDim.x) {
    T* row = out.row(group.first_row + r);
    for (std::int64_t c = threadIdx.x; c < columns; c += product_threads) {
      row[c] = from_float<T>(to_float(row[c]) + to_float(bias[c]));
    }
  }
}

/// Experts' products of rows that the device alone knows.
template <class T, class Weight>
struct GroupCall {
  const ExpertPointers* experts;
  int count;
  const std::int32_t* first;  ///< these as in RowGroups
  const std::int32_t* row;
  std::int64_t hidden, width;
  std::int64_t hidden_stride, width_stride;  ///< of weights with such inputs
  Matrix<const T> in;
  Matrix<float> both;
  Matrix<T> middle;
  Matrix<T> out;
  bool operator==(const GroupCall&) const = default;
};
/// (count) each.
template <class T, class Weight>
struct GroupTables {
  Task<T, Weight, float>* up;
  Task<T, Weight, T>* down;
  GatedGroup* gated;
  GatedGroup* biased;
  bool operator==(const GroupTables&) const = default;
};

/// By one block.
template <int Rows, class T, class Weight>
__global__ void __launch_bounds__(product_threads)
    fill_tables(GroupCall<T, Weight> call, GroupTables<T, Weight> tables) {
  const auto across = [](std::int64_t columns) { return (columns + tile_columns - 1) / tile_columns; };
  std::int64_t tiles = 0;  // of the experts before, one column of them
  for (int some = 0; some < call.count; some += static_cast<int>(product_threads)) {
    const int e = some + static_cast<int>(threadIdx.x);
    const std::int32_t first = e < call.count ? call.first[e] : 0;
    const std::int32_t rows = e < call.count ? call.first[e + 1] - first : 0;
    int of_some = 0;
    const std::int64_t before = tiles + block_sum_before<product_threads>((rows + Rows - 1) / Rows, of_some);
    tiles += of_some;
    if (e >= call.count) continue;
    const ExpertPointers& expert = call.experts[e];
    tables.up[e] = {call.in,
                    reinterpret_cast<const Weight*>(expert.gate_up),
                    call.hidden_stride,
                    {call.both.row(first), call.both.stride},
                    rows,
                    2 * call.width,
                    call.hidden,
                    before * across(2 * call.width),
                    call.row + first};
    tables.down[e] = {{call.middle.row(first), call.middle.stride},
                      reinterpret_cast<const Weight*>(expert.down),
                      call.width_stride,
                      {call.out.row(first), call.out.stride},
                      rows,
                      call.hidden,
                      call.width,
                      before * across(call.hidden),
                      nullptr};
    tables.gated[e] = {first, rows, expert.gate_up_bias, expert.gating};
    tables.biased[e] = {first, rows, expert.down_bias, expert.gating};
  }
}

template <int Rows, class T, class Weight, class Out>
std::vector<Task<T, Weight, Out>> tasks_of(std::span<const Product> products, std::int64_t& tiles) {
  std::vector<Task<T, Weight, Out>> tasks;
  for (const Product& product : products) {
    if (product.in.rows == 0) continue;
    const CudaMatrix& weight = *product.weight;
    require(!weight.in_slabs(), "an expert's weight multiplies in experts() only");
    tasks.push_back({as_matrix<const T>(product.in), reinterpret_cast<const Weight*>(weight.bytes().data()),
                     weight.stride(), as_matrix<Out>(product.out), product.in.rows, weight.out_features(),
                     weight.in_features(), tiles, nullptr});
    tiles += (product.in.rows + Rows - 1) / Rows * ((weight.out_features() + tile_columns - 1) / tile_columns);
  }
  return tasks;
}

}  // namespace

void CudaDevice::multiply(std::span<const Product> products, bool accumulate, std::int64_t room) {
  if (products.empty()) return;
  std::int64_t most = 0;
  for (const Product& product : products) most = std::max(most, product.in.rows);
  const auto run = [&]<int Rows, class T, class Weight, class Out>() {
    std::int64_t tiles = 0;
    auto tasks = tasks_of<Rows, T, Weight, Out>(products, tiles);
    using OneTask = Task<T, Weight, Out>;
    if (tasks.empty()) return;
    if (room > 0 && tasks.size() > 1) {
      OneTask none{};
      none.first_tile = tiles;
      tasks.resize(static_cast<std::size_t>(room_for(std::ssize(tasks))), none);
      const std::int64_t across = (products.front().out.cols + tile_columns - 1) / tile_columns;
      tiles = (room / Rows + std::min(room, std::ssize(tasks))) * across;
    }
    const OneTask* list = room > 0 || tasks.size() > 1 ? products_.put(std::span<const OneTask>(tasks)) : nullptr;
    launch(multiply_tiles<Rows, T, Weight, Out>, static_cast<unsigned>(tiles), product_threads, 0, stream_,
           list == nullptr ? tasks.front() : OneTask{}, list, static_cast<int>(tasks.size()), accumulate);
  };
  const auto with_rows = [&]<class T, class Weight, class Out>() {
    if (most > few_rows) {
      run.template operator()<many_rows, T, Weight, Out>();
    } else {
      run.template operator()<few_rows, T, Weight, Out>();
    }
  };
  const DType out = products.front().out.type;
  if (options_.weights == DType::f32) {
    with_rows.template operator()<float, float, float>();
  } else if (options_.activations == DType::f32) {
    with_rows.template operator()<float, Bf16, float>();
  } else if (out == DType::f32) {
    with_rows.template operator()<Bf16, Bf16, float>();
  } else {
    with_rows.template operator()<Bf16, Bf16, Bf16>();
  }
}

void CudaDevice::linear(const Tensor& in, const PackedMatrix& packed, const Tensor& out, bool accumulate) {
  const CudaMatrix& weight = as_cuda_matrix(packed);
  require_shape(in, options_.activations, in.rows, weight.in_features(), "linear: the input");
  require_shape(out, options_.activations, in.rows, weight.out_features(), "linear: the output");
  multiply(std::array{Product{in, &weight, out}}, accumulate);
}

void CudaDevice::linear_by_head(const Tensor& in, std::span<const std::unique_ptr<PackedMatrix>> weights,
                                const Tensor& out) {
  const HeadSizes sizes = require_heads(in, options_.activations, weights, out);
  std::vector<Product> products;
  for (std::size_t h = 0; h < weights.size(); ++h) {
    const auto head = static_cast<std::int64_t>(h);
    products.push_back({in.col_range(head * sizes.inputs, sizes.inputs), &as_cuda_matrix(*weights[h]),
                        out.col_range(head * sizes.outputs, sizes.outputs)});
  }
  multiply(products, false);
}

void CudaDevice::experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out) {
  const DType type = options_.activations;
  require_shape(in, type, in.rows, in.cols, "experts: the input");
  require_shape(out, type, in.rows, in.cols, "experts: the output");
  std::int64_t rows = 0;
  std::int64_t present = 0;  // experts with rows
  std::size_t in_slabs = 0;
  for (const ExpertRows& group : groups) {
    require_expert(group, in);
    const ExpertWeights& first = *groups.front().expert;
    require(group.expert->down->in_features() == first.down->in_features(), "experts: experts of different widths");
    const CudaLayout gate_up = as_cuda_matrix(*group.expert->gate_up).layout();
    const CudaLayout down = as_cuda_matrix(*group.expert->down).layout();
    require((gate_up == CudaLayout::gated_slabs) == (down == CudaLayout::slabs), "experts: weights of two kinds");
    in_slabs += down == CudaLayout::slabs;
    rows += group.rows;
    present += group.rows > 0;
  }
  require(in_slabs == 0 || in_slabs == groups.size(), "experts: experts packed for different kernels");
  if (rows == 0) return;
  if (in_slabs > 0) return experts_by_wgmma(in, groups, out);
  // One expert is what ranks may compute twice: a dense layer, a shared expert. They must get the same.
  experts_in_rows(in, groups, out, cublas_ && present > 1 && by_cublas_.second(present, rows));
}

void CudaDevice::experts_in_rows(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out,
                                 bool by_cublas) {
  const DType type = options_.activations;
  const std::int64_t width = groups.front().expert->down->in_features();
  float* numbers = hidden_.get<float>(in.rows * 3 * width);
  // cuBLAS' grouped products come in the type of what they multiply.
  const Tensor both{reinterpret_cast<std::byte*>(numbers), by_cublas ? type : DType::f32, in.rows, 2 * width,
                    2 * width};
  const Tensor hidden{reinterpret_cast<std::byte*>(numbers + in.rows * 2 * width), type, in.rows, width, width};
  std::vector<Product> up;
  std::vector<Product> down;
  std::vector<GatedGroup> gated;
  std::vector<GatedGroup> biased;
  for (const ExpertRows& group : groups) {
    if (group.rows == 0) continue;
    const ExpertWeights& expert = *group.expert;
    const Tensor rows = both.row_range(group.first_row, group.rows);
    up.push_back({in.row_range(group.first_row, group.rows), &as_cuda_matrix(*expert.gate_up), rows});
    down.push_back({hidden.row_range(group.first_row, group.rows), &as_cuda_matrix(*expert.down),
                    out.row_range(group.first_row, group.rows)});
    gated.push_back({group.first_row, group.rows, expert.gate_up_bias.view.data, expert.gating});
    biased.push_back({group.first_row, group.rows, expert.down_bias.view.data, expert.gating});
  }
  const bool several = gated.size() > 1;
  const std::int64_t count = several ? room_for(std::ssize(gated)) : 1;
  // Twice as many blocks as an expert has rows on average: where they aren't enough they take several.
  const std::int64_t by_row = several ? 2 * in.rows / count : in.rows;
  const dim3 grid(static_cast<unsigned>(std::clamp<std::int64_t>(by_row, 1, 256)), static_cast<unsigned>(count));
  const auto product = [&](std::span<const Product> all) {
    by_cublas ? multiply_by_cublas(all) : multiply(all, false, in.rows);
  };
  product(up);
  const auto gate = [&]<class T, class From>() {
    launch(gate_rows<T, From>, grid, product_threads, 0, stream_,
           static_cast<const GatedGroup*>(rows_.put(std::span<const GatedGroup>(gated), count)),
           as_matrix<const From>(both), width, as_matrix<T>(hidden));
  };
  with_type(type,
            [&]<class T>(T) { by_cublas ? gate.template operator()<T, T>() : gate.template operator()<T, float>(); });
  product(down);
  if (std::ranges::none_of(biased, [](const GatedGroup& group) { return group.bias != nullptr; })) return;
  with_type(type, [&]<class T>(T) {
    launch(add_group_bias<T>, grid, product_threads, 0, stream_,
           static_cast<const GatedGroup*>(more_rows_.put(std::span<const GatedGroup>(biased), count)),
           as_matrix<T>(out), out.cols);
  });
}

std::unique_ptr<ExpertSet> CudaDevice::expert_set(std::vector<const ExpertWeights*> experts) {
  std::vector<ExpertPointers> pointers;
  for (const ExpertWeights* expert : experts) {
    require(expert != nullptr, "expert_set: an expert is missing");
    const CudaMatrix& gate_up = as_cuda_matrix(*expert->gate_up);
    const CudaMatrix& down = as_cuda_matrix(*expert->down);
    const CudaMatrix& any = as_cuda_matrix(*experts.front()->down);
    require(down.in_features() == any.in_features() && down.out_features() == any.out_features() &&
                down.layout() == any.layout(),
            "expert_set: experts of different shapes");
    require((gate_up.layout() == CudaLayout::gated_slabs) == down.in_slabs(), "expert_set: weights of two kinds");
    pointers.push_back({gate_up.bytes().data(), down.bytes().data(), expert->gate_up_bias.view.data,
                        expert->down_bias.view.data, expert->gating});
  }
  require(!pointers.empty(), "expert_set: no experts");
  const auto bytes = std::as_bytes(std::span(pointers));
  DeviceMemory table = allocate(bytes.size());
  send(bytes.data(), bytes.size(), table.get());
  return std::make_unique<CudaExpertSet>(std::move(experts), std::move(table));
}

void CudaDevice::groups_by_mma(const Tensor& in, const RowGroups& groups, const CudaExpertSet& experts,
                               const Tensor& out) {
  const std::int64_t width = experts.any().down->in_features();
  const std::int64_t pairs = out.rows;
  float* numbers = hidden_.get<float>(pairs * 3 * width);
  const Tensor both{reinterpret_cast<std::byte*>(numbers), DType::f32, pairs, 2 * width, 2 * width};
  const Tensor middle{reinterpret_cast<std::byte*>(numbers + pairs * 2 * width), in.type, pairs, width, width};
  const bool biased = std::ranges::any_of(experts.experts(), [](const auto* e) { return bool{e->down_bias.memory}; });
  const auto run = [&]<int Rows, class T, class Weight>() {
    const GroupCall<T, Weight> call{experts.table(),
                                    experts.count(),
                                    groups.first,
                                    groups.row,
                                    in.cols,
                                    width,
                                    CudaMatrix::stride_of(in.cols),
                                    CudaMatrix::stride_of(width),
                                    as_matrix<const T>(in),
                                    as_matrix<float>(both),
                                    as_matrix<T>(middle),
                                    as_matrix<T>(out)};
    using Up = Task<T, Weight, float>;
    using Down = Task<T, Weight, T>;
    const std::int64_t count = call.count;
    auto* up = reinterpret_cast<Up*>(products_.get<std::byte>(
        count * static_cast<std::int64_t>(sizeof(Up) + sizeof(Down) + 2 * sizeof(GatedGroup))));
    auto* down = reinterpret_cast<Down*>(up + count);
    auto* gated = reinterpret_cast<GatedGroup*>(down + count);
    launch(fill_tables<Rows, T, Weight>, 1, product_threads, 0, stream_, call,
           GroupTables<T, Weight>{up, down, gated, gated + count});
    const std::int64_t most_tiles = pairs / Rows + std::min(pairs, count);
    const auto blocks = [&](std::int64_t columns) {
      const std::int64_t tiles = most_tiles * ((columns + tile_columns - 1) / tile_columns);
      require(tiles <= std::numeric_limits<std::int32_t>::max(), "add_experts: more tiles than a call may have");
      return static_cast<unsigned>(tiles);
    };
    // Twice as many as an expert has on average: where they aren't enough they take several rows.
    const dim3 by_row(static_cast<unsigned>(std::clamp<std::int64_t>(2 * pairs / count, 1, 256)),
                      static_cast<unsigned>(count));
    launch(multiply_tiles<Rows, T, Weight, float>, blocks(2 * width), product_threads, 0, stream_, Up{},
           static_cast<const Up*>(up), call.count, false);
    launch(gate_rows<T>, by_row, product_threads, 0, stream_, static_cast<const GatedGroup*>(gated),
           as_matrix<const float>(both), width, as_matrix<T>(middle));
    launch(multiply_tiles<Rows, T, Weight, T>, blocks(in.cols), product_threads, 0, stream_, Down{},
           static_cast<const Down*>(down), call.count, false);
    if (!biased) return;
    launch(add_group_bias<T>, by_row, product_threads, 0, stream_, static_cast<const GatedGroup*>(gated + count),
           as_matrix<T>(out), out.cols);
  };
  const auto with_rows = [&]<class T, class Weight>() {
    if (pairs > few_rows * experts.count()) {
      run.template operator()<many_rows, T, Weight>();
    } else {
      run.template operator()<few_rows, T, Weight>();
    }
  };
  if (options_.weights == DType::f32) {
    with_rows.template operator()<float, float>();
  } else if (options_.activations == DType::f32) {
    with_rows.template operator()<float, Bf16>();
  } else {
    with_rows.template operator()<Bf16, Bf16>();
  }
}

}  // namespace coterie
