#include "runtime/layers/attention.hpp"

namespace coterie {

KvRows attend_latent(Device& device, const AttentionLayer& layer, const Batch& batch, const Resident& at,
                     Scratch& scratch) {
  const auto& [attention, all_weights, cache, residual_scale] = layer;
  const LatentSpec& spec = *attention.latent;
  const LatentWeights& weights = *all_weights.latent;
  const std::int64_t rows = at.x.rows;
  const std::int64_t heads = attention.shape.heads;
  const auto sequences = sequence_rows(batch, at.rows);

  const Tensor normed = scratch.take(rows, at.x.cols);
  all_weights.norm.apply(device, at.x, normed);
  Tensor q_input = normed;
  if (weights.q_down) {
    q_input = scratch.take(rows, weights.q_down->out_features());
    device.linear(normed, *weights.q_down, q_input);
    if (weights.q_down_bias) device.add_bias(q_input, weights.q_down_bias.view);
    weights.q_norm.apply(device, q_input, q_input);
  }
  const Tensor q = scratch.take(rows, heads * (spec.nope + spec.rope));
  const Tensor q_nope = q.col_range(0, heads * spec.nope);
  const Tensor q_rope = q.col_range(heads * spec.nope, heads * spec.rope);
  device.linear(q_input, *weights.q, q);
  rotate(device, q_rope, static_cast<int>(spec.rope), attention.rotary, batch, at.rows);

  const Tensor kv = scratch.take(rows, spec.width());
  const Tensor latent = kv.col_range(0, spec.latent);
  device.linear(normed, *weights.kv, kv);
  if (weights.kv_bias) device.add_bias(kv, weights.kv_bias.view);
  weights.kv_norm.apply(device, latent, latent);
  rotate(device, kv.col_range(spec.latent, spec.rope), static_cast<int>(spec.rope), attention.rotary, batch, at.rows);
  const Tensor no_v = kv.col_range(spec.width(), 0);
  device.write_kv(kv, no_v, sequences, cache);

  const Tensor q_latent = scratch.take(rows, heads * spec.latent);
  const Tensor mean = scratch.take(rows, heads * spec.latent);
  const Tensor out = scratch.take(rows, heads * spec.value);
  device.linear_by_head(q_nope, weights.keys, q_latent);
  device.latent_attention(
      q_latent, q_rope, cache, sequences,
      {attention.shape.heads, static_cast<int>(spec.latent), static_cast<int>(spec.rope), attention.shape.scale}, mean);
  device.linear_by_head(mean, weights.values, out);
  add_projection(device, out, *all_weights.out, all_weights.out_bias, residual_scale, at.x, scratch);
  return {kv, no_v, cache};
}

}  // namespace coterie
