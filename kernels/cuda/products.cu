// A GPU's products with weights: one launch for any number of products, each cut into tiles. A number of the output is
// summed in the same order whatever the tile's form: a row's result doesn't depend on the rows beside it.
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/cuda/tile_sums.hpp"
#include "kernels/require.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

namespace coterie {
namespace {

/// Tiles of so many columns of the output.
template <class Form>
__host__ __device__ std::int64_t tiles_across(std::int64_t columns) {
  return (columns + Form::columns - 1) / Form::columns;
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
template <class Form, class T, class Weight, class Out>
__global__ void __launch_bounds__(product_threads)
    multiply_tiles(const __grid_constant__ Task<T, Weight, Out> only, const Task<T, Weight, Out>* tasks, int count,
                   bool accumulate) {
  const Task<T, Weight, Out>& task = tasks == nullptr ? only : find_task(tasks, count, std::int64_t{blockIdx.x});
  // Tiles of the same columns follow each other: they read the same weights.
  const std::int64_t tile = blockIdx.x - task.first_tile;
  const std::int64_t down = (task.rows + Form::rows - 1) / Form::rows;
  if (tile >= down * tiles_across<Form>(task.columns)) return;  // more blocks than tiles
  const std::int64_t row = tile % down * Form::rows;
  const std::int64_t column = tile / down * Form::columns;
  float* sums = dynamic_shared_floats();
  sum_tile<Form>(task, row, column, sums);
  for (int i = static_cast<int>(threadIdx.x); i < Form::rows * Form::columns; i += product_threads) {
    const std::int64_t r = row + i / Form::columns;
    const std::int64_t c = column + i % Form::columns;
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
template <class Form, class T, class Weight>
__global__ void __launch_bounds__(product_threads)
    fill_tables(GroupCall<T, Weight> call, GroupTables<T, Weight> tables) {
  std::int64_t tiles = 0;  // of the experts before, one column of them
  for (int some = 0; some < call.count; some += static_cast<int>(product_threads)) {
    const int e = some + static_cast<int>(threadIdx.x);
    const std::int32_t first = e < call.count ? call.first[e] : 0;
    const std::int32_t rows = e < call.count ? call.first[e + 1] - first : 0;
    int of_some = 0;
    const std::int64_t before =
        tiles + block_sum_before<product_threads>((rows + Form::rows - 1) / Form::rows, of_some);
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
                    before * tiles_across<Form>(2 * call.width),
                    call.row + first};
    tables.down[e] = {{call.middle.row(first), call.middle.stride},
                      reinterpret_cast<const Weight*>(expert.down),
                      call.width_stride,
                      {call.out.row(first), call.out.stride},
                      rows,
                      call.hidden,
                      call.width,
                      before * tiles_across<Form>(call.hidden),
                      nullptr};
    tables.gated[e] = {first, rows, expert.gate_up_bias, expert.gating};
    tables.biased[e] = {first, rows, expert.down_bias, expert.gating};
  }
}

template <class Form, class T, class Weight, class Out>
std::vector<Task<T, Weight, Out>> tasks_of(std::span<const Product> products, std::int64_t& tiles) {
  std::vector<Task<T, Weight, Out>> tasks;
  for (const Product& product : products) {
    if (product.in.rows == 0) continue;
    const CudaMatrix& weight = *product.weight;
    require(!weight.in_slabs(), "an expert's weight multiplies in experts() only");
    tasks.push_back({as_matrix<const T>(product.in), reinterpret_cast<const Weight*>(weight.bytes().data()),
                     weight.stride(), as_matrix<Out>(product.out), product.in.rows, weight.out_features(),
                     weight.in_features(), tiles, nullptr});
    tiles += (product.in.rows + Form::rows - 1) / Form::rows * tiles_across<Form>(weight.out_features());
  }
  return tasks;
}

/// call.operator()<Form>() with the form of tiles for so many rows of a product.
template <class Weight, class Call>
void with_form(std::int64_t rows, const Call& call) {
  using Forms = TileForms<Weight>;
  if (rows <= Forms::Few::rows) return call.template operator()<typename Forms::Few>();
  if (rows <= Forms::Some::rows) return call.template operator()<typename Forms::Some>();
  call.template operator()<typename Forms::Many>();
}

}  // namespace

void CudaDevice::multiply(std::span<const Product> products, bool accumulate, std::int64_t room) {
  if (products.empty()) return;
  std::int64_t most = 0;
  for (const Product& product : products) most = std::max(most, product.in.rows);
  const auto run = [&]<class Form, class T, class Weight, class Out>() {
    std::int64_t tiles = 0;
    auto tasks = tasks_of<Form, T, Weight, Out>(products, tiles);
    using OneTask = Task<T, Weight, Out>;
    if (tasks.empty()) return;
    if (room > 0 && tasks.size() > 1) {
      OneTask none{};
      none.first_tile = tiles;
      tasks.resize(static_cast<std::size_t>(room_for(std::ssize(tasks))), none);
      tiles = (room / Form::rows + std::min(room, std::ssize(tasks))) * tiles_across<Form>(products.front().out.cols);
    }
    const OneTask* list = room > 0 || tasks.size() > 1 ? products_.put(std::span<const OneTask>(tasks)) : nullptr;
    require(tiles <= std::numeric_limits<std::int32_t>::max(), "a product: more tiles than a call may have");
    const auto kernel = multiply_tiles<Form, T, Weight, Out>;
    allow_shared(kernel, Form::shared_bytes);
    launch(kernel, static_cast<unsigned>(tiles), product_threads, Form::shared_bytes, stream_,
           list == nullptr ? tasks.front() : OneTask{}, list, static_cast<int>(tasks.size()), accumulate);
  };
  const auto with_rows = [&]<class T, class Weight, class Out>() {
    with_form<Weight>(most, [&]<class Form>() { run.template operator()<Form, T, Weight, Out>(); });
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
  const auto run = [&]<class Form, class T, class Weight>() {
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
    launch(fill_tables<Form, T, Weight>, 1, product_threads, 0, stream_, call,
           GroupTables<T, Weight>{up, down, gated, gated + count});
    const std::int64_t most_tiles = pairs / Form::rows + std::min(pairs, count);
    const auto multiply = [&]<class Out>(std::int64_t columns, const Task<T, Weight, Out>* tasks) {
      const std::int64_t tiles = most_tiles * tiles_across<Form>(columns);
      require(tiles <= std::numeric_limits<std::int32_t>::max(), "add_experts: more tiles than a call may have");
      const auto kernel = multiply_tiles<Form, T, Weight, Out>;
      allow_shared(kernel, Form::shared_bytes);
      launch(kernel, static_cast<unsigned>(tiles), product_threads, Form::shared_bytes, stream_, Task<T, Weight, Out>{},
             tasks, call.count, false);
    };
    // Twice as many as an expert has on average: where they aren't enough they take several rows.
    const dim3 by_row(static_cast<unsigned>(std::clamp<std::int64_t>(2 * pairs / count, 1, 256)),
                      static_cast<unsigned>(count));
    multiply(2 * width, static_cast<const Up*>(up));
    launch(gate_rows<T>, by_row, product_threads, 0, stream_, static_cast<const GatedGroup*>(gated),
           as_matrix<const float>(both), width, as_matrix<T>(middle));
    multiply(in.cols, static_cast<const Down*>(down));
    if (!biased) return;
    launch(add_group_bias<T>, by_row, product_threads, 0, stream_, static_cast<const GatedGroup*>(gated + count),
           as_matrix<T>(out), out.cols);
  };
  const auto with_rows = [&]<class T, class Weight>() {
    with_form<Weight>((pairs + experts.count() - 1) / experts.count(),
                      [&]<class Form>() { run.template operator()<Form, T, Weight>(); });
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
