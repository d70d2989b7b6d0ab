// The CPU's grouped experts.
#include "kernels/cpu_device.hpp"
#include "kernels/cpu_simd.hpp"

#include <omp.h>

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace coterie {
namespace {

/// out = silu(gate) * up; `gate_up` holds `count` numbers of gate, then as many of up.
COTERIE_SIMD void swiglu(const float* gate_up, std::int64_t count, float* out) {
  for (std::int64_t c = 0; c < count; ++c) {
    out[c] = gate_up[c] / (1.0F + fast_exp(-gate_up[c])) * gate_up[count + c];
  }
}

/// The same with a bias on `gate_up` and another gating.
COTERIE_SIMD void gate_biased(const float* gate_up, const float* bias, std::int64_t count, const Gating& gating,
                              float* out) {
  const float most = gating.limit > 0 ? gating.limit : std::numeric_limits<float>::infinity();
  const float alpha = gating.alpha;
  const float offset = gating.offset;
  for (std::int64_t c = 0; c < count; ++c) {
    float gate = gate_up[c] + bias[c];
    float up = gate_up[count + c] + bias[count + c];
    gate = gate > most ? most : gate;
    up = up > most ? most : up < -most ? -most : up;
    out[c] = (up + offset) * (gate / (1.0F + fast_exp(-alpha * gate)));
  }
}

COTERIE_SIMD void add_numbers(const float* bias, std::int64_t count, float* out) {
  for (std::int64_t c = 0; c < count; ++c) out[c] += bias[c];
}

constexpr std::int64_t rows_a_task = 120;  // of one expert: bounds the scratch

Tensor dense(float* data, std::int64_t rows, std::int64_t cols) {
  return {reinterpret_cast<std::byte*>(data), DType::f32, rows, cols, cols};
}

bool is_swiglu(const Gating& gating) {
  return gating.alpha == 1 && gating.offset == 0 && gating.limit == 0;
}

}  // namespace

void CpuDevice::expert(const ExpertRows& group, const Tensor& in, const Tensor& out, ExpertScratch& scratch,
                       int threads) {
  const CpuMatrix& gate_up = as_cpu_matrix(*group.expert->gate_up);
  const CpuMatrix& down = as_cpu_matrix(*group.expert->down);
  const std::int64_t width = down.in_features();
  const Tensor both = dense(scratch.gate_up.get<float>(group.rows * 2 * width), group.rows, 2 * width);
  const Tensor hidden = dense(scratch.hidden.get<float>(group.rows * width), group.rows, width);
  std::uint16_t* converted =
      down.type() == DType::bf16
          ? scratch.converted.get<std::uint16_t>(group.rows * std::max(gate_up.depth(), down.depth()))
          : nullptr;
  multiply_rows(in.row_range(group.first_row, group.rows), gate_up, both, false, converted, threads);
  const ExpertWeights& weights = *group.expert;
  if (!weights.gate_up_bias.memory && is_swiglu(weights.gating)) {
    parallel_for(threads, group.rows, [&](std::int64_t r) { swiglu(f32_row(both, r), width, f32_row(hidden, r)); });
  } else {
    const std::vector<float> none(weights.gate_up_bias.memory ? 0 : static_cast<std::size_t>(2 * width));
    const float* bias = weights.gate_up_bias.memory ? f32_row(weights.gate_up_bias.view, 0) : none.data();
    parallel_for(threads, group.rows, [&](std::int64_t r) {
      gate_biased(f32_row(both, r), bias, width, weights.gating, f32_row(hidden, r));
    });
  }
  const Tensor result = out.row_range(group.first_row, group.rows);
  multiply_rows(hidden, down, result, false, converted, threads);
  if (weights.down_bias.memory) {
    const float* bias = f32_row(weights.down_bias.view, 0);
    parallel_for(threads, group.rows, [&](std::int64_t r) { add_numbers(bias, result.cols, f32_row(result, r)); });
  }
}

void CpuDevice::experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out) {
  require_shape(in, in.rows, in.cols, "experts: the input");
  require_shape(out, in.rows, in.cols, "experts: the output");
  std::vector<ExpertRows>& tasks = expert_tasks_;
  tasks.clear();
  std::int64_t largest = 0;
  for (const ExpertRows& group : groups) {
    require_expert(group, in);
    for (std::int64_t first = 0; first < group.rows; first += rows_a_task) {
      tasks.push_back({group.expert, group.first_row + first, std::min(rows_a_task, group.rows - first)});
      largest = std::max(largest, tasks.back().rows * group.expert->down->in_features() * in.cols);
    }
  }
  // Threads share the tasks out if there are enough, otherwise each task.
  const auto count = static_cast<std::int64_t>(tasks.size());
  const int each = count >= std::int64_t{2} * options_.threads ? 1 : threads_for(3 * largest);
  const int all = each == 1 ? threads_for(3 * largest * count) : 1;
  parallel_for(all, count, [&](std::int64_t i) {
    ExpertScratch& scratch = expert_scratch_[static_cast<std::size_t>(omp_get_thread_num())];
    expert(tasks[static_cast<std::size_t>(i)], in, out, scratch, each);
  });
}

}  // namespace coterie
