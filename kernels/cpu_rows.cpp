// What the CPU does row by row: gather, combine, norm, clamp, rotary embedding.
#include "kernels/cpu_device.hpp"
#include "kernels/cpu_simd.hpp"

#include <algorithm>
#include <cmath>

namespace coterie {
namespace {

COTERIE_SIMD void widen(const std::uint16_t* in, std::int64_t count, float* out) {
  for (std::int64_t c = 0; c < count; ++c) out[c] = from_bf16(in[c]);
}

COTERIE_SIMD void add_scaled(const float* in, float factor, std::int64_t count, float* out) {
  for (std::int64_t c = 0; c < count; ++c) out[c] += factor * in[c];
}

/// 16 partial sums, each in order, then a tree.
COTERIE_SIMD void norm_group(const float* in, const float* weight, std::int64_t count, float epsilon, float* out) {
  float sums[16] = {};
  std::int64_t c = 0;
  for (; c + 16 <= count; c += 16) {
    for (int i = 0; i < 16; ++i) sums[i] += in[c + i] * in[c + i];
  }
  for (int i = 0; c < count; ++c, ++i) sums[i] += in[c] * in[c];
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  const float factor = 1.0F / std::sqrt(sums[0] / static_cast<float>(count) + epsilon);
  for (c = 0; c < count; ++c) out[c] = in[c] * factor * weight[c];
}

/// 16 partial sums, each in order, then a tree.
COTERIE_SIMD float sum_of(const float* in, std::int64_t count) {
  float sums[16] = {};
  std::int64_t c = 0;
  for (; c + 16 <= count; c += 16) {
    for (int i = 0; i < 16; ++i) sums[i] += in[c + i];
  }
  for (int i = 0; c < count; ++c, ++i) sums[i] += in[c];
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) sums[i] += sums[i + half];
  }
  return sums[0];
}

COTERIE_SIMD void subtract(const float* in, float what, std::int64_t count, float* out) {
  for (std::int64_t c = 0; c < count; ++c) out[c] = in[c] - what;
}

COTERIE_SIMD void add_to(const float* in, std::int64_t count, float* out) {
  for (std::int64_t c = 0; c < count; ++c) out[c] += in[c];
}

COTERIE_SIMD void scale_row(float* x, std::int64_t count, float factor) {
  for (std::int64_t c = 0; c < count; ++c) x[c] *= factor;
}

COTERIE_SIMD void clamp_row(float* x, std::int64_t count, float limit) {
  for (std::int64_t c = 0; c < count; ++c) x[c] = x[c] < -limit ? -limit : x[c] > limit ? limit : x[c];
}

COTERIE_SIMD void rotate_halves(float* head, const float* cosine, const float* sine, std::int64_t half) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = head[i];
    const float b = head[i + half];
    head[i] = a * cosine[i] - b * sine[i];
    head[i + half] = b * cosine[i] + a * sine[i];
  }
}

COTERIE_SIMD void rotate_neighbours(float* head, const float* cosine, const float* sine, std::int64_t half) {
  for (std::int64_t i = 0; i < half; ++i) {
    const float a = head[2 * i];
    const float b = head[2 * i + 1];
    head[2 * i] = a * cosine[i] - b * sine[i];
    head[2 * i + 1] = b * cosine[i] + a * sine[i];
  }
}

}  // namespace

void CpuDevice::gather(const Tensor& table, std::span<const std::int32_t> rows, const Tensor& out) {
  require_shape(out, static_cast<std::int64_t>(rows.size()), table.cols, "gather: the output");
  require(std::ranges::all_of(rows, [&](std::int32_t row) { return row >= 0 && row < table.rows; }),
          "gather: a row is outside the table");
  for (std::int64_t r = 0; r < out.rows; ++r) {
    const std::int64_t from = rows[static_cast<std::size_t>(r)] * table.stride;
    if (table.type == DType::f32) {
      std::copy_n(reinterpret_cast<const float*>(table.data) + from, table.cols, f32_row(out, r));
    } else {
      widen(reinterpret_cast<const std::uint16_t*>(table.data) + from, table.cols, f32_row(out, r));
    }
  }
}

void CpuDevice::combine(const Tensor& in, std::span<const std::int64_t> offsets,
                        std::span<const Contribution> contributions, const Tensor& out, bool accumulate) {
  require_shape(in, in.rows, out.cols, "combine: the input");
  require_shape(out, static_cast<std::int64_t>(offsets.size()) - 1, out.cols, "combine: the output");
  require_contributions(offsets, contributions, in.rows);
  parallel_for(threads_for(static_cast<std::int64_t>(contributions.size()) * out.cols), out.rows, [&](std::int64_t t) {
    const auto first = static_cast<std::size_t>(offsets[static_cast<std::size_t>(t)]);
    const auto last = static_cast<std::size_t>(offsets[static_cast<std::size_t>(t) + 1]);
    if (!accumulate) std::fill_n(f32_row(out, t), out.cols, 0.0F);
    for (const Contribution& c : contributions.subspan(first, last - first)) {
      add_scaled(f32_row(in, c.row), c.weight, out.cols, f32_row(out, t));
    }
  });
}

void CpuDevice::sum_rows(const RowSums& sums, std::int64_t cols, bool accumulate) {
  require_sums(sums);
  const auto work = static_cast<std::int64_t>(sums.parts.size()) * cols;
  parallel_for(threads_for(work), std::ssize(sums.rows), [&](std::int64_t r) {
    const RowSums::Row& row = sums.rows[static_cast<std::size_t>(r)];
    auto* to = reinterpret_cast<float*>(row.to);
    if (!accumulate) std::fill_n(to, cols, 0.0F);
    for (auto i = static_cast<std::size_t>(row.first); i < static_cast<std::size_t>(row.last); ++i) {
      add_scaled(reinterpret_cast<const float*>(sums.parts[i].from), sums.parts[i].weight, cols, to);
    }
  });
}

void CpuDevice::rms_norm(const Tensor& in, const Tensor& weight, float epsilon, const Tensor& out) {
  require_shape(weight, 1, weight.cols, "rms_norm: the weight");
  require(weight.cols > 0 && in.cols % weight.cols == 0, "rms_norm: the input is no multiple of the weight");
  require_shape(in, in.rows, in.cols, "rms_norm: the input");
  require_shape(out, in.rows, in.cols, "rms_norm: the output");
  parallel_for(threads_for(in.rows * in.cols), in.rows, [&](std::int64_t r) {
    for (std::int64_t c = 0; c < in.cols; c += weight.cols) {
      norm_group(f32_row(in, r) + c, f32_row(weight, 0), weight.cols, epsilon, f32_row(out, r) + c);
    }
  });
}

void CpuDevice::layer_norm(const Tensor& in, const Tensor& weight, const Tensor& bias, float epsilon,
                           const Tensor& out) {
  require_shape(weight, 1, in.cols, "layer_norm: the weight");
  if (bias.data != nullptr) require_shape(bias, 1, in.cols, "layer_norm: the bias");
  require_shape(in, in.rows, in.cols, "layer_norm: the input");
  require_shape(out, in.rows, in.cols, "layer_norm: the output");
  parallel_for(threads_for(in.rows * in.cols), in.rows, [&](std::int64_t r) {
    float* to = f32_row(out, r);
    subtract(f32_row(in, r), sum_of(f32_row(in, r), in.cols) / static_cast<float>(in.cols), in.cols, to);
    norm_group(to, f32_row(weight, 0), in.cols, epsilon, to);
    if (bias.data != nullptr) add_to(f32_row(bias, 0), in.cols, to);
  });
}

void CpuDevice::add_bias(const Tensor& x, const Tensor& bias) {
  require_shape(x, x.rows, x.cols, "add_bias");
  require_shape(bias, 1, x.cols, "add_bias: the bias");
  for (std::int64_t r = 0; r < x.rows; ++r) add_to(f32_row(bias, 0), x.cols, f32_row(x, r));
}

void CpuDevice::add(const Tensor& in, float factor, const Tensor& out) {
  require_shape(in, out.rows, out.cols, "add: the input");
  require_shape(out, out.rows, out.cols, "add: the output");
  for (std::int64_t r = 0; r < out.rows; ++r) add_scaled(f32_row(in, r), factor, out.cols, f32_row(out, r));
}

void CpuDevice::scale(const Tensor& x, float factor) {
  require_shape(x, x.rows, x.cols, "scale");
  for (std::int64_t r = 0; r < x.rows; ++r) scale_row(f32_row(x, r), x.cols, factor);
}

void CpuDevice::clamp(const Tensor& x, float limit) {
  require_shape(x, x.rows, x.cols, "clamp");
  for (std::int64_t r = 0; r < x.rows; ++r) clamp_row(f32_row(x, r), x.cols, limit);
}

void CpuDevice::tabulate(const Rotary& rotary, std::span<const std::int64_t> positions) {
  if (std::ranges::equal(table_.positions, positions) && table_.rotary.scale == rotary.scale &&
      table_.rotary.inverse_frequencies == rotary.inverse_frequencies) {
    return;
  }
  table_.rotary = rotary;
  table_.positions.assign(positions.begin(), positions.end());
  const std::size_t frequencies = rotary.inverse_frequencies.size();
  table_.cosine.resize(positions.size() * frequencies);
  table_.sine.resize(positions.size() * frequencies);
  parallel_for(threads_for(static_cast<std::int64_t>(table_.sine.size()) * 20),
               static_cast<std::int64_t>(positions.size()), [&](std::int64_t p) {
                 const auto position = static_cast<float>(positions[static_cast<std::size_t>(p)]);
                 float* cosine = table_.cosine.data() + static_cast<std::size_t>(p) * frequencies;
                 float* sine = table_.sine.data() + static_cast<std::size_t>(p) * frequencies;
                 for (std::size_t i = 0; i < frequencies; ++i) {
                   const float angle = position * rotary.inverse_frequencies[i];
                   cosine[i] = std::cos(angle) * rotary.scale;
                   sine[i] = std::sin(angle) * rotary.scale;
                 }
               });
}

void CpuDevice::rotary(const Tensor& x, int head_dim, const Rotary& rotary, std::span<const std::int64_t> positions) {
  const auto half = static_cast<std::int64_t>(rotary.inverse_frequencies.size());
  require_shape(x, static_cast<std::int64_t>(positions.size()), x.cols, "rotary: the rows");
  require(head_dim > 0 && x.cols % head_dim == 0, "rotary: the columns are no whole heads");
  require(2 * half <= head_dim, "rotary: more frequencies than pairs in a head");
  tabulate(rotary, positions);
  parallel_for(threads_for(x.rows * x.cols), x.rows, [&](std::int64_t r) {
    const float* cosine = table_.cosine.data() + r * half;
    const float* sine = table_.sine.data() + r * half;
    for (std::int64_t c = 0; c < x.cols; c += head_dim) {
      (rotary.interleaved ? rotate_neighbours : rotate_halves)(f32_row(x, r) + c, cosine, sine, half);
    }
  });
}

}  // namespace coterie
