// A GPU's gradients of grouped experts, in f32. Products take their inputs either way round, so that nothing is
// transposed in memory.
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/require.hpp"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

namespace coterie {
namespace {

constexpr int tile = 64;
constexpr int step = 16;  ///< terms of the sums that lie in shared memory at a time
constexpr int across = 4;
constexpr unsigned multiply_threads = (tile / across) * (tile / across);
constexpr unsigned row_threads = 128;
constexpr std::int64_t rows_a_sum = 1024;  ///< as on the CPU

/// A matrix, or its transpose.
struct View {
  const float* data;
  std::int64_t row_stride;
  std::int64_t column_stride;
};
View of(const Tensor& tensor) {
  return {reinterpret_cast<const float*>(tensor.data), tensor.stride, 1};
}
View transposed(const Tensor& tensor) {
  return {reinterpret_cast<const float*>(tensor.data), 1, tensor.stride};
}
View of(const PackedMatrix& weight) {
  const CudaMatrix& matrix = as_cuda_matrix(weight);
  return {reinterpret_cast<const float*>(matrix.bytes().data()), matrix.stride(), 1};
}

/// out = left * right, or out += for sums of `rows_a_sum` terms each.
struct Task {
  View left;   ///< (rows, depth)
  View right;  ///< (depth, columns)
  Matrix<float> out;
  std::int64_t rows, columns, depth;
  bool adds;
  std::int64_t first_tile;  ///< tiles of the tasks before it
};

/// (tile, step) numbers of `from` beginning at (row, column), to shared memory; beyond the end zeros. Neighbouring
/// threads read neighbouring numbers whichever way round the matrix is.
__device__ void load(const View& from, std::int64_t row, std::int64_t rows, std::int64_t column, std::int64_t columns,
                     float (*to)[step + 1]) {
  for (int i = static_cast<int>(threadIdx.x); i < tile * step; i += multiply_threads) {
    const int r = from.column_stride == 1 ? i / step : i % tile;
    const int c = from.column_stride == 1 ? i % step : i / tile;
    const bool inside = row + r < rows && column + c < columns;
    to[r][c] = inside ? from.data[(row + r) * from.row_stride + (column + c) * from.column_stride] : 0;
  }
}

__global__ void __launch_bounds__(multiply_threads) multiply_views(const Task* tasks, int count) {
  __shared__ float left[tile][step + 1];
  __shared__ float right[tile][step + 1];  // transposed
  int which = 0;
  while (which + 1 < count && tasks[which + 1].first_tile <= std::int64_t{blockIdx.x}) ++which;
  const Task task = tasks[which];
  const View right_side{task.right.data, task.right.column_stride, task.right.row_stride};
  const std::int64_t down = (task.rows + tile - 1) / tile;
  const std::int64_t row = (blockIdx.x - task.first_tile) % down * tile;
  const std::int64_t column = (blockIdx.x - task.first_tile) / down * tile;
  const int my_row = static_cast<int>(threadIdx.x) / (tile / across);
  const int my_column = static_cast<int>(threadIdx.x) % (tile / across);
  const auto each = [&](const auto& call) {
    for (int i = 0; i < across; ++i) {
      for (int j = 0; j < across; ++j) {
        const std::int64_t r = row + my_row + i * (tile / across);
        const std::int64_t c = column + my_column + j * (tile / across);
        if (r < task.rows && c < task.columns) call(i, j, task.out.row(r)[c]);
      }
    }
  };
  float total[across][across] = {};
  if (task.adds) each([&](int i, int j, float& out) { total[i][j] = out; });
  const std::int64_t slice = task.adds ? rows_a_sum : task.depth;
  for (std::int64_t first = 0; first < task.depth; first += slice) {
    const std::int64_t last = min(first + slice, task.depth);
    float sums[across][across] = {};
    for (std::int64_t k = first; k < last; k += step) {
      load(task.left, row, task.rows, k, last, left);
      load(right_side, column, task.columns, k, last, right);
      __syncthreads();
      for (int t = 0; t < step; ++t) {
        for (int i = 0; i < across; ++i) {
          for (int j = 0; j < across; ++j) {
            sums[i][j] =
                fmaf(left[my_row + i * (tile / across)][t], right[my_column + j * (tile / across)][t], sums[i][j]);
          }
        }
      }
      __syncthreads();
    }
    for (int i = 0; i < across; ++i) {
      for (int j = 0; j < across; ++j) total[i][j] += sums[i][j];
    }
  }
  each([&](int i, int j, float& out) { out = total[i][j]; });
}

/// A group's rows between its products.
struct Middle {
  Matrix<float> both;    ///< (rows, 2 * width): the products; then their gradients
  Matrix<float> hidden;  ///< (rows, width): the gradient of the unweighted middle; then the weighted middle itself
  Matrix<const float> out_gradient;
  std::int64_t first_row, rows, width, columns;
  const float* gate_up_bias;  ///< or none
  const float* down_bias;
  Gating gating;
  float* gate_up_bias_gradient;
  float* down_bias_gradient;
};

/// Block (r, group): the gradients of gate and up, and of the row's weight.
__global__ void gate_rows_backward(const Middle* groups, const float* weights, float* weight_gradient) {
  const Middle& group = groups[blockIdx.y];
  const Gating& gating = group.gating;
  const float most = gating.limit > 0 ? gating.limit : INFINITY;
  for (std::int64_t r = blockIdx.x; r < group.rows; r += gridDim.x) {
    const float weight = weights[group.first_row + r];
    float* gates = group.both.row(r);
    float* ups = gates + group.width;
    float* hidden = group.hidden.row(r);
    float sum = 0;
    for (std::int64_t c = threadIdx.x; c < group.width; c += row_threads) {
      const float gate_was = group.gate_up_bias == nullptr ? gates[c] : gates[c] + group.gate_up_bias[c];
      const float up_was = group.gate_up_bias == nullptr ? ups[c] : ups[c] + group.gate_up_bias[group.width + c];
      const float gate = gate_was > most ? most : gate_was;
      const float up = (up_was > most ? most : up_was < -most ? -most : up_was) + gating.offset;
      const float sigmoid = 1.0F / (1.0F + expf(-gating.alpha * gate));
      const float silu = gate * sigmoid;
      const float gradient = weight * hidden[c];
      sum += up * silu * hidden[c];
      gates[c] = gate_was > most ? 0 : gradient * up * sigmoid * (1.0F + gating.alpha * gate * (1.0F - sigmoid));
      ups[c] = up_was > most || up_was < -most ? 0 : gradient * silu;
      hidden[c] = weight * up * silu;
    }
    for (std::int64_t c = threadIdx.x; group.down_bias != nullptr && c < group.columns; c += row_threads) {
      sum += group.out_gradient.row(r)[c] * group.down_bias[c];
    }
    sum = block_sum<row_threads>(sum);
    if (threadIdx.x == 0) weight_gradient[group.first_row + r] = sum;
  }
}

/// Block (columns, group): the gradients of both biases, rows in their order; a thread has a column.
__global__ void add_bias_gradients(const Middle* groups, const float* weights) {
  const Middle& group = groups[blockIdx.y];
  const std::int64_t column = std::int64_t{blockIdx.x} * row_threads + threadIdx.x;
  if (group.gate_up_bias != nullptr && column < 2 * group.width) {
    float sum = group.gate_up_bias_gradient[column];
    for (std::int64_t r = 0; r < group.rows; ++r) sum += group.both.row(r)[column];
    group.gate_up_bias_gradient[column] = sum;
  }
  if (group.down_bias != nullptr && column < group.columns) {
    float sum = group.down_bias_gradient[column];
    for (std::int64_t r = 0; r < group.rows; ++r) {
      sum += weights[group.first_row + r] * group.out_gradient.row(r)[column];
    }
    group.down_bias_gradient[column] = sum;
  }
}

/// Tasks one after the other.
class Tasks {
 public:
  void add(const View& left, const View& right, const Tensor& out, std::int64_t depth, bool adds) {
    tasks_.push_back({left, right, as_matrix<float>(out), out.rows, out.cols, depth, adds, tiles_});
    tiles_ += (out.rows + tile - 1) / tile * ((out.cols + tile - 1) / tile);
  }
  [[nodiscard]] std::span<const Task> all() const { return tasks_; }
  [[nodiscard]] unsigned tiles() const { return static_cast<unsigned>(tiles_); }

 private:
  std::vector<Task> tasks_;
  std::int64_t tiles_ = 0;
};

}  // namespace

void CudaDevice::experts_backward(const ExpertsBackward& rows, std::span<const ExpertRows> groups,
                                  std::span<const ExpertGradients> gradients) {
  require_backward(rows, groups, gradients);
  require(options_.weights == DType::f32, "experts_backward: the weights must be f32");
  std::int64_t numbers = 0, most_rows = 0, most_columns = rows.in.cols;
  for (const ExpertRows& group : groups) {
    const std::int64_t width = group.expert->down->in_features();
    numbers += 3 * group.rows * width;
    most_rows = std::max(most_rows, group.rows);
    most_columns = std::max(most_columns, 2 * width);
  }
  if (most_rows == 0) return;
  float* free = hidden_.get<float>(numbers);
  const auto take = [&](std::int64_t count, std::int64_t cols) {
    float* at = std::exchange(free, free + count * cols);
    return Tensor{reinterpret_cast<std::byte*>(at), DType::f32, count, cols, cols};
  };
  std::vector<Product> up;
  std::vector<Middle> middles;
  Tasks by_hidden, others;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const ExpertRows& group = groups[g];
    const ExpertWeights& expert = *group.expert;
    if (group.rows == 0) continue;
    const std::int64_t width = expert.down->in_features();
    const Tensor in = rows.in.row_range(group.first_row, group.rows);
    const Tensor out_gradient = rows.out_gradient.row_range(group.first_row, group.rows);
    const Tensor both = take(group.rows, 2 * width);
    const Tensor hidden = take(group.rows, width);
    up.push_back({in, &as_cuda_matrix(*expert.gate_up), both});
    by_hidden.add(of(out_gradient), of(*expert.down), hidden, in.cols, false);
    others.add(transposed(out_gradient), of(hidden), gradients[g].down, group.rows, true);
    others.add(transposed(both), of(in), gradients[g].gate_up, group.rows, true);
    others.add(of(both), of(*expert.gate_up), rows.in_gradient.row_range(group.first_row, group.rows), 2 * width,
               false);
    const auto numbers_of = [](const Tensor& tensor) { return as_matrix<float>(tensor).data; };
    middles.push_back({as_matrix<float>(both), as_matrix<float>(hidden), as_matrix<const float>(out_gradient),
                       group.first_row, group.rows, width, in.cols, numbers_of(expert.gate_up_bias.view),
                       numbers_of(expert.down_bias.view), expert.gating, numbers_of(gradients[g].gate_up_bias),
                       numbers_of(gradients[g].down_bias)});
  }
  const auto count = static_cast<unsigned>(middles.size());
  const auto run = [&](const Tasks& tasks) {
    launch(multiply_views, tasks.tiles(), multiply_threads, 0, stream_, tables_.put(tasks.all()),
           static_cast<int>(tasks.all().size()));
  };
  const float* weights = more_rows_.put(rows.weights);
  auto* weight_gradient = partial_.get<float>(rows.in.rows);
  const Middle* all = rows_.put(std::span<const Middle>(middles));
  multiply(up, false);
  run(by_hidden);
  launch(gate_rows_backward, dim3(static_cast<unsigned>(std::min<std::int64_t>(most_rows, 256)), count), row_threads, 0,
         stream_, all, weights, weight_gradient);
  run(others);
  launch(add_bias_gradients, dim3(static_cast<unsigned>((most_columns + row_threads - 1) / row_threads), count),
         row_threads, 0, stream_, all, weights);
  const std::size_t bytes = rows.weight_gradient.size_bytes();
  std::memcpy(rows.weight_gradient.data(), fetch({weight_gradient, bytes, bytes, 1}), bytes);
}

}  // namespace coterie
