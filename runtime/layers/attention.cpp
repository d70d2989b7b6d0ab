#include "runtime/layers/attention.hpp"

namespace coterie {

KvRows attend(Device& device, const AttentionLayer& layer, const Batch& batch, const Resident& at, Scratch& scratch) {
  if (layer.spec.latent) return attend_latent(device, layer, batch, at, scratch);
  const auto& [spec, weights, cache, residual_scale] = layer;
  const auto sequences = sequence_rows(batch, at.rows);

  const Tensor normed = scratch.take(at.x.rows, at.x.cols);
  const Tensor qkv = scratch.take(at.x.rows, spec.q_width() + 2 * spec.kv_width());
  const Tensor q = qkv.col_range(0, spec.q_width());
  const Tensor k = qkv.col_range(spec.q_width(), spec.kv_width());
  const Tensor v = qkv.col_range(spec.q_width() + spec.kv_width(), spec.kv_width());
  const Tensor out = scratch.take(at.x.rows, spec.q_width());

  weights.norm.apply(device, at.x, normed);
  device.linear(normed, *weights.qkv, qkv);
  if (weights.qkv_bias) device.add_bias(qkv, weights.qkv_bias.view);
  if (weights.q_norm) weights.q_norm.apply(device, q, q);
  if (weights.k_norm) weights.k_norm.apply(device, k, k);
  if (spec.clip > 0) device.clamp(qkv, spec.clip);
  rotate(device, q, spec.shape.head_dim, spec.rotary, batch, at.rows);
  rotate(device, k, spec.shape.head_dim, spec.rotary, batch, at.rows);
  device.write_kv(k, v, sequences, cache);
  device.attention(q, cache, sequences, spec.shape, out, weights.sinks.view);
  add_projection(device, out, *weights.out, weights.out_bias, residual_scale, at.x, scratch);
  return {k, v, cache};
}

void rotate(Device& device, const Tensor& x, int head_dim, const RotarySpec& rotary, const Batch& batch,
            std::span<const std::int32_t> rows) {
  if (rotary.usual.inverse_frequencies.empty()) return;
  const auto positions = positions_of(batch, rows);
  if (!rotary.depends_on_length()) return device.rotary(x, head_dim, rotary.usual, positions);
  for (std::size_t first = 0; first < rows.size();) {
    const BatchSequence& sequence = batch.of(rows[first]);
    std::size_t count = 1;
    while (first + count < rows.size() && &batch.of(rows[first + count]) == &sequence) ++count;
    device.rotary(x.row_range(static_cast<std::int64_t>(first), static_cast<std::int64_t>(count)), head_dim,
                  rotary.of_length(sequence.length), std::span(positions).subspan(first, count));
    first += count;
  }
}

void add_projection(Device& device, const Tensor& in, const PackedMatrix& weight, const DeviceArray& bias, float scale,
                    const Tensor& x, Scratch& scratch) {
  if (!bias && scale == 1) {
    device.linear(in, weight, x, true);
    return;
  }
  const Tensor out = scratch.take(x.rows, x.cols);
  device.linear(in, weight, out);
  if (bias) device.add_bias(out, bias.view);
  device.add(out, scale, x);
}

}  // namespace coterie
