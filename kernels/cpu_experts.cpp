// The CPU's grouped SwiGLU.
#include "kernels/cpu_device.hpp"
#include "kernels/cpu_simd.hpp"

namespace coterie {
namespace {

/// out = silu(gate) * up; `gate_up` holds `count` numbers of gate, then as many of up.
COTERIE_SIMD void swiglu(const float* gate_up, std::int64_t count, float* out) {
  for (std::int64_t c = 0; c < count; ++c) {
    out[c] = gate_up[c] / (1.0F + fast_exp(-gate_up[c])) * gate_up[count + c];
  }
}

}  // namespace

void CpuDevice::experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& out) {
  require_shape(in, in.rows, in.cols, "experts: the input");
  require_shape(out, in.rows, in.cols, "experts: the output");
  for (const ExpertRows& group : groups) {
    require(
        group.expert != nullptr && group.rows >= 0 && group.first_row >= 0 && group.first_row + group.rows <= in.rows,
        "experts: a group is outside the input");
    const PackedMatrix& gate_up = *group.expert->gate_up;
    const PackedMatrix& down = *group.expert->down;
    require(gate_up.in_features() == in.cols && down.out_features() == in.cols &&
                gate_up.out_features() == 2 * down.in_features(),
            "experts: an expert's weights don't fit the rows");
    const std::int64_t width = down.in_features();
    const Tensor both{reinterpret_cast<std::byte*>(gate_up_.get<float>(group.rows * 2 * width)), DType::f32, group.rows,
                      2 * width, 2 * width};
    const Tensor hidden{reinterpret_cast<std::byte*>(hidden_.get<float>(group.rows * width)), DType::f32, group.rows,
                        width, width};
    linear(in.row_range(group.first_row, group.rows), gate_up, both, false);
    parallel_for(options_.threads, group.rows,
                 [&](std::int64_t r) { swiglu(f32_row(both, r), width, f32_row(hidden, r)); });
    linear(hidden, down, out.row_range(group.first_row, group.rows), false);
  }
}

}  // namespace coterie
