// The CPU's products with packed weights.
#include "kernels/cpu_device.hpp"
#include "kernels/cpu_gemm.hpp"
#include "kernels/cpu_simd.hpp"

#include <omp.h>

#include <algorithm>
#include <cmath>

namespace coterie {
namespace {

constexpr std::int64_t rows_a_task = 120;  // a piece of so many rows, 480 KiB, stays in a core's cache

COTERIE_SIMD void convert(const float* in, std::int64_t cols, std::int64_t padded, std::uint16_t* out) {
  for (std::int64_t c = 0; c < cols; ++c) out[c] = to_bf16(in[c]);
  for (std::int64_t c = cols; c < padded; ++c) out[c] = 0;
}

}  // namespace

void multiply_rows(const Tensor& in, const CpuMatrix& weight, const Tensor& out, bool accumulate,
                   std::uint16_t* scratch, int threads) {
  GemmTask whole{&weight, 0, weight.panels(), in.rows, in.data, in.stride, f32_row(out, 0), out.stride, accumulate};
  if (weight.type() == DType::bf16) {
    whole.in = reinterpret_cast<const std::byte*>(scratch);
    whole.in_stride = weight.depth();
    parallel_for(threads, in.rows, [&](std::int64_t r) {
      convert(f32_row(in, r), in.cols, weight.depth(), scratch + r * weight.depth());
    });
  }
  const std::int64_t row_blocks = (in.rows + rows_a_task - 1) / rows_a_task;
  const std::int64_t parts = threads == 1 ? 1 : std::min<std::int64_t>(weight.panels(), std::int64_t{4} * threads);
  parallel_for(threads, row_blocks * parts, [&](std::int64_t i) {
    const std::int64_t first = i / parts * rows_a_task;
    const std::int64_t part = i % parts;
    GemmTask task = whole;
    task.first_panel = weight.panels() * part / parts;
    task.panels = weight.panels() * (part + 1) / parts - task.first_panel;
    task.rows = std::min(rows_a_task, in.rows - first);
    task.in += static_cast<std::size_t>(first * task.in_stride) * size_of(weight.type());
    task.out += first * out.stride;
    multiply(task);
  });
}

void CpuDevice::linear(const Tensor& in, const PackedMatrix& packed, const Tensor& out, bool accumulate) {
  const CpuMatrix& weight = as_cpu_matrix(packed);
  require_shape(in, in.rows, weight.in_features(), "linear: the input");
  require_shape(out, in.rows, weight.out_features(), "linear: the output");
  std::uint16_t* scratch =
      weight.type() == DType::bf16 ? converted_.get<std::uint16_t>(in.rows * weight.depth()) : nullptr;
  multiply_rows(in, weight, out, accumulate, scratch, threads_for(in.rows * in.cols * out.cols));
}

void CpuDevice::gate(const Tensor& x, const PackedMatrix& weight, float factor, const Tensor& in, const Tensor& out) {
  require_gate(x, weight, DType::f32, in, out);
  std::vector<float> logits(static_cast<std::size_t>(x.rows));
  linear(x, weight, {reinterpret_cast<std::byte*>(logits.data()), DType::f32, x.rows, 1, 1}, false);
  std::vector<std::int64_t> offsets{0};
  std::vector<Contribution> gates;
  for (const float logit : logits) {
    gates.push_back({static_cast<std::int32_t>(gates.size()), factor * (1.0F / (1.0F + std::exp(-logit)))});
    offsets.push_back(static_cast<std::int64_t>(gates.size()));
  }
  combine(in, offsets, gates, out, false);
}

void CpuDevice::linear_by_head(const Tensor& in, std::span<const std::unique_ptr<PackedMatrix>> weights,
                               const Tensor& out) {
  const HeadSizes sizes = require_heads(in, DType::f32, weights, out);
  const auto heads = static_cast<std::int64_t>(weights.size());
  const std::int64_t row_blocks = (in.rows + rows_a_task - 1) / rows_a_task;
  parallel_for(threads_for(in.rows * in.cols * sizes.outputs), heads * row_blocks, [&](std::int64_t i) {
    const std::int64_t head = i % heads;
    const std::int64_t first = i / heads * rows_a_task;
    const std::int64_t rows = std::min(rows_a_task, in.rows - first);
    const CpuMatrix& weight = as_cpu_matrix(*weights[static_cast<std::size_t>(head)]);
    Scratch& converted = expert_scratch_[static_cast<std::size_t>(omp_get_thread_num())].converted;
    multiply_rows(in.row_range(first, rows).col_range(head * sizes.inputs, sizes.inputs), weight,
                  out.row_range(first, rows).col_range(head * sizes.outputs, sizes.outputs), false,
                  weight.type() == DType::bf16 ? converted.get<std::uint16_t>(rows * weight.depth()) : nullptr, 1);
  });
}

}  // namespace coterie
