#include "runtime/transformer.hpp"

namespace coterie {

Transformer::Transformer(const ModelSpec& spec, const Weights& weights, KvPool& kv, RankContext& context)
    : spec_(spec), weights_(weights), kv_(kv), context_(context), rows_(context.device) {
  for (int l = 0; l < static_cast<int>(spec.layers.size()); ++l) {
    moe_.emplace_back(l, spec.layers[l].moe, spec.rms_epsilon, weights.layers[l], context);
  }
}

std::span<const float> Transformer::forward(const Batch& batch, std::int64_t step, const RoutingObserver& observe) {
  rows_.reset();
  const Tensor x = rows_.take(batch.rows(), spec_.hidden);
  context_.device.gather(weights_.embedding.view, batch.tokens, x);
  for (int layer = 0; layer < static_cast<int>(spec_.layers.size()); ++layer) {
    attention(layer, x, batch);
    moe_[layer].forward(x, step, observe);
  }
  return head(x, batch);
}

void Transformer::attention(int layer, const Tensor& x, const Batch& batch) {
  const Timed timed(context_.metrics.phases.attention);
  const AttentionSpec& spec = spec_.layers[layer].attention;
  const LayerWeights& weights = weights_.layers[layer];
  Device& device = context_.device;

  context_.scratch.reset();
  const Tensor normed = context_.scratch.take(x.rows, x.cols);
  const Tensor qkv = context_.scratch.take(x.rows, spec.q_width() + 2 * spec.kv_width());
  const Tensor q = qkv.col_range(0, spec.q_width());
  const Tensor k = qkv.col_range(spec.q_width(), spec.kv_width());
  const Tensor v = qkv.col_range(spec.q_width() + spec.kv_width(), spec.kv_width());
  const Tensor out = context_.scratch.take(x.rows, spec.q_width());

  device.rms_norm(x, weights.attention_norm.view, spec_.rms_epsilon, normed);
  device.linear(normed, *weights.qkv, qkv);
  if (weights.q_norm.memory) device.rms_norm(q, weights.q_norm.view, spec_.rms_epsilon, q);
  if (weights.k_norm.memory) device.rms_norm(k, weights.k_norm.view, spec_.rms_epsilon, k);
  if (spec.clip > 0) device.clamp(qkv, spec.clip);
  device.rotary(q, spec.shape.head_dim, spec_.rotary, batch.positions);
  device.rotary(k, spec.shape.head_dim, spec_.rotary, batch.positions);
  device.write_kv(k, v, batch.sequences, kv_.layer(layer));
  device.attention(q, kv_.layer(layer), batch.sequences, spec.shape, out);
  device.linear(out, *weights.attention_out, x, true);
}

std::span<const float> Transformer::head(const Tensor& x, const Batch& batch) {
  const Timed timed(context_.metrics.phases.head);
  const auto rows = static_cast<std::int64_t>(batch.sampled.size());
  context_.scratch.reset();
  const Tensor sampled = context_.scratch.take(rows, x.cols);
  const Tensor logits = context_.scratch.take(rows, spec_.vocabulary);
  context_.device.gather(x, batch.sampled, sampled);
  context_.device.rms_norm(sampled, weights_.final_norm.view, spec_.rms_epsilon, sampled);
  context_.device.linear(sampled, *weights_.head, logits);
  logits_.resize(static_cast<std::size_t>(rows * spec_.vocabulary));
  context_.device.download(logits, logits_);
  return logits_;
}

}  // namespace coterie
