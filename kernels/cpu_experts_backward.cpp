// The CPU's gradients of grouped experts. Six products a group, all by the one that multiplies rows with packed
// weights: where weights are wanted the other way round they are packed anew, where rows are summed over they are
// packed as if they were weights.
#include "kernels/cpu_device.hpp"
#include "kernels/cpu_simd.hpp"
#include "kernels/cpu_transpose.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

namespace coterie {
namespace {

constexpr std::int64_t rows_a_task = 1024;  // of one expert: bounds the scratch; multiply() sums as many by themselves
constexpr int dot_lanes = 16;               // of a row's sum, whatever the processor: plain loops then become registers

/// What the elementwise part of a row works on.
struct GatedRow {
  float* gate_up;     ///< (2 * count): the products; then their gradients
  float* hidden;      ///< (count): the gradient of the unweighted middle; then the weighted middle itself
  const float* bias;  ///< (2 * count)
  std::int64_t count;
  float weight;
};

COTERIE_INLINE float total(const float (&lanes_of)[dot_lanes]) {
  float sum = 0;
  for (const float lane : lanes_of) sum += lane;
  return sum;
}

/// Returns the gradient of the row's weight.
COTERIE_SIMD float gate_backward(const GatedRow& row, const Gating& gating) {
  const float most = gating.limit > 0 ? gating.limit : std::numeric_limits<float>::infinity();
  const float alpha = gating.alpha;
  const float offset = gating.offset;
  float sums[dot_lanes] = {};
  for (std::int64_t first = 0; first < row.count; first += dot_lanes) {
    const int n = static_cast<int>(std::min<std::int64_t>(dot_lanes, row.count - first));
    float* gates = row.gate_up + first;
    float* ups = gates + row.count;
    const float* gate_bias = row.bias + first;
    const float* up_bias = gate_bias + row.count;
    float* hidden = row.hidden + first;
    for (int i = 0; i < n; ++i) {
      const float gate_was = gates[i] + gate_bias[i];
      const float up_was = ups[i] + up_bias[i];
      const float gate = gate_was > most ? most : gate_was;
      const float up = (up_was > most ? most : up_was < -most ? -most : up_was) + offset;
      const float sigmoid = 1.0F / (1.0F + fast_exp(-alpha * gate));
      const float silu = gate * sigmoid;
      const float middle = up * silu;
      const float gradient = row.weight * hidden[i];
      sums[i] += middle * hidden[i];
      const float by_gate = gradient * up * sigmoid * (1.0F + alpha * gate * (1.0F - sigmoid));
      const float by_up = gradient * silu;
      gates[i] = gate_was > most ? 0.0F : by_gate;
      ups[i] = up_was > most || up_was < -most ? 0.0F : by_up;
      hidden[i] = row.weight * middle;
    }
  }
  return total(sums);
}

COTERIE_SIMD float dot(const float* a, const float* b, std::int64_t count) {
  float sums[dot_lanes] = {};
  for (std::int64_t first = 0; first < count; first += dot_lanes) {
    const int n = static_cast<int>(std::min<std::int64_t>(dot_lanes, count - first));
    for (int i = 0; i < n; ++i) sums[i] += a[first + i] * b[first + i];
  }
  return total(sums);
}

COTERIE_SIMD void add_weighted(const float* in, float weight, std::int64_t count, float* out) {
  for (std::int64_t c = 0; c < count; ++c) out[c] += weight * in[c];
}

Tensor dense(float* data, std::int64_t rows, std::int64_t cols) {
  return {reinterpret_cast<std::byte*>(data), DType::f32, rows, cols, cols};
}

/// One source panel's inputs are rows of so many outputs: transposed they are the panels of the other matrix.
template <class T>
void transpose_panels(const CpuMatrix& from, const CpuMatrix& to, std::byte* memory, std::int64_t panel) {
  const std::int64_t first = panel * to.width();
  const std::int64_t count = std::min(to.width(), from.in_features() - first);
  std::byte* target = memory + (to.panel(panel) - to.panel(0));
  if (count < to.width()) std::memset(target, 0, static_cast<std::size_t>(to.width() * to.depth()) * sizeof(T));
  for (std::int64_t p = 0; p < from.panels(); ++p) {
    transpose(reinterpret_cast<const T*>(from.panel(p)) + first * from.width(), from.width(), count, from.width(),
              to.width(), reinterpret_cast<T*>(target) + p * from.width() * to.width());
  }
}

}  // namespace

CpuMatrix CpuDevice::transposed(const PackedMatrix& weight, int threads) {
  const CpuMatrix& from = as_cpu_matrix(weight);
  const std::size_t bytes = CpuMatrix::memory_bytes(from.in_features(), from.out_features(), from.halves());
  auto* memory = backward_.weights.get<std::byte>(static_cast<std::int64_t>(bytes));
  CpuMatrix to(from.in_features(), from.out_features(), from.halves(), memory);
  parallel_for(threads, to.panels(), [&](std::int64_t panel) {
    from.halves() ? transpose_panels<std::uint16_t>(from, to, memory, panel)
                  : transpose_panels<std::uint32_t>(from, to, memory, panel);
  });
  return to;
}

CpuMatrix CpuDevice::packed_columns(const Tensor& in, int threads) {
  const std::size_t bytes = CpuMatrix::memory_bytes(in.cols, in.rows, false);
  auto* memory = backward_.panels.get<std::byte>(static_cast<std::int64_t>(bytes));
  CpuMatrix to(in.cols, in.rows, false, memory);
  parallel_for(threads, to.panels(), [&](std::int64_t panel) {
    const std::int64_t first = panel * to.width();
    const std::int64_t count = std::min(to.width(), in.cols - first);
    auto* target = reinterpret_cast<float*>(memory + (to.panel(panel) - to.panel(0)));
    for (std::int64_t r = 0; r < in.rows; ++r, target += to.width()) {
      std::memcpy(target, f32_row(in, r) + first, static_cast<std::size_t>(count) * sizeof(float));
      std::fill(target + count, target + to.width(), 0.0F);
    }
  });
  return to;
}

/// out += left^T * right
void CpuDevice::add_products(const Tensor& left, const Tensor& right, const Tensor& out, int threads) {
  constexpr std::int64_t cols_a_task = 64;
  const Tensor columns = dense(backward_.columns.get<float>(left.rows * left.cols), left.cols, left.rows);
  parallel_for(threads, (left.cols + cols_a_task - 1) / cols_a_task, [&](std::int64_t i) {
    const std::int64_t first = i * cols_a_task;
    transpose(reinterpret_cast<const std::uint32_t*>(left.data) + first, left.stride, left.rows,
              std::min(cols_a_task, left.cols - first), left.rows,
              reinterpret_cast<std::uint32_t*>(f32_row(columns, first)));
  });
  multiply_rows(columns, packed_columns(right, threads), out, true, nullptr, threads);
}

void CpuDevice::expert_backward(const ExpertsBackward& rows, const ExpertRows& group,
                                const ExpertGradients& gradients) {
  const ExpertWeights& expert = *group.expert;
  const CpuMatrix& gate_up = as_cpu_matrix(*expert.gate_up);
  const std::int64_t n = group.rows;
  const std::int64_t width = expert.down->in_features();
  const Tensor in = rows.in.row_range(group.first_row, n);
  const Tensor out_gradient = rows.out_gradient.row_range(group.first_row, n);
  const Tensor both = dense(backward_.gate_up.get<float>(n * 2 * width), n, 2 * width);
  const Tensor hidden = dense(backward_.hidden.get<float>(n * width), n, width);
  const int threads = threads_for(8 * n * width * in.cols);

  multiply_rows(in, gate_up, both, false, nullptr, threads);
  multiply_rows(out_gradient, transposed(*expert.down, threads), hidden, false, nullptr, threads);
  const std::vector<float> none(expert.gate_up_bias.memory ? 0 : static_cast<std::size_t>(2 * width));
  const float* bias = expert.gate_up_bias.memory ? f32_row(expert.gate_up_bias.view, 0) : none.data();
  parallel_for(threads, n, [&](std::int64_t r) {
    const auto row = static_cast<std::size_t>(group.first_row + r);
    float gradient =
        gate_backward({f32_row(both, r), f32_row(hidden, r), bias, width, rows.weights[row]}, expert.gating);
    if (expert.down_bias.memory) gradient += dot(f32_row(out_gradient, r), f32_row(expert.down_bias.view, 0), in.cols);
    rows.weight_gradient[row] = gradient;
  });

  add_products(out_gradient, hidden, gradients.down, threads);
  add_products(both, in, gradients.gate_up, threads);
  multiply_rows(both, transposed(gate_up, threads), rows.in_gradient.row_range(group.first_row, n), false, nullptr,
                threads);
  for (std::int64_t r = 0; r < n; ++r) {
    const float weight = rows.weights[static_cast<std::size_t>(group.first_row + r)];
    if (expert.gate_up_bias.memory) add_weighted(f32_row(both, r), 1, 2 * width, f32_row(gradients.gate_up_bias, 0));
    if (expert.down_bias.memory) {
      add_weighted(f32_row(out_gradient, r), weight, in.cols, f32_row(gradients.down_bias, 0));
    }
  }
}

void CpuDevice::experts_backward(const ExpertsBackward& rows, std::span<const ExpertRows> groups,
                                 std::span<const ExpertGradients> gradients) {
  require_backward(rows, groups, gradients);
  for (const ExpertRows& group : groups) {
    require(as_cpu_matrix(*group.expert->gate_up).type() == DType::f32 &&
                as_cpu_matrix(*group.expert->down).type() == DType::f32,
            "experts_backward: the weights must be f32");
  }
  for (std::size_t g = 0; g < groups.size(); ++g) {
    for (std::int64_t first = 0; first < groups[g].rows; first += rows_a_task) {
      expert_backward(rows,
                      {groups[g].expert, groups[g].first_row + first, std::min(rows_a_task, groups[g].rows - first)},
                      gradients[g]);
    }
  }
}

}  // namespace coterie
