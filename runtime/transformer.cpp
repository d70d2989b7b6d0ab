#include "runtime/transformer.hpp"

namespace coterie {

Transformer::Transformer(const ModelSpec& spec, const Weights& weights, KvPool& kv, RankContext& context)
    : spec_(spec),
      weights_(weights),
      kv_(kv),
      context_(context),
      streams_{Scratch(context.device), Scratch(context.device)} {
  for (int l = 0; l < static_cast<int>(spec.layers.size()); ++l) {
    moe_.emplace_back(l, spec.layers[l].moe, spec.rms_epsilon, weights.layers[l], context);
  }
}

Logits Transformer::forward(const Batch& batch, std::int64_t step, const RoutingObserver& observe) {
  Resident at = start(batch);
  int stream = 0;
  for (int layer = 0; layer < static_cast<int>(spec_.layers.size()); ++layer) {
    context_.scratch.reset();
    const Freight freight = attention(layer, batch, at);
    const std::byte* before = at.x.data;
    streams_[1 - stream].reset();
    at = moe_[layer].forward(batch, std::move(at), freight, step, streams_[1 - stream], observe);
    if (at.x.data != before) stream = 1 - stream;
  }
  return head(batch, at);
}

Resident Transformer::start(const Batch& batch) {
  Resident at;
  std::vector<std::int32_t> tokens;
  for (std::int32_t row = 0; row < batch.rows(); ++row) {
    const BatchSequence& sequence = batch.of(row);
    if (sequence.start != context_.comm.rank() && !sequence.replicated) continue;
    at.rows.push_back(row);
    tokens.push_back(batch.tokens[row]);
  }
  streams_[0].reset();
  at.x = streams_[0].take(static_cast<std::int64_t>(tokens.size()), spec_.hidden);
  context_.device.gather(weights_.embedding.view, tokens, at.x);
  return at;
}

Freight Transformer::attention(int layer, const Batch& batch, const Resident& at) {
  const Timed timed(context_.metrics.phases.attention);
  const AttentionSpec& spec = spec_.layers[layer].attention;
  const LayerWeights& weights = weights_.layers[layer];
  Device& device = context_.device;
  const auto sequences = sequence_rows(batch, at.rows);
  const auto positions = positions_of(batch, at.rows);

  const Tensor normed = context_.scratch.take(at.x.rows, at.x.cols);
  const Tensor qkv = context_.scratch.take(at.x.rows, spec.q_width() + 2 * spec.kv_width());
  const Tensor q = qkv.col_range(0, spec.q_width());
  const Tensor k = qkv.col_range(spec.q_width(), spec.kv_width());
  const Tensor v = qkv.col_range(spec.q_width() + spec.kv_width(), spec.kv_width());
  const Tensor out = context_.scratch.take(at.x.rows, spec.q_width());

  device.rms_norm(at.x, weights.attention_norm.view, spec_.rms_epsilon, normed);
  device.linear(normed, *weights.qkv, qkv);
  if (weights.q_norm.memory) device.rms_norm(q, weights.q_norm.view, spec_.rms_epsilon, q);
  if (weights.k_norm.memory) device.rms_norm(k, weights.k_norm.view, spec_.rms_epsilon, k);
  if (spec.clip > 0) device.clamp(qkv, spec.clip);
  device.rotary(q, spec.shape.head_dim, spec_.rotary, positions);
  device.rotary(k, spec.shape.head_dim, spec_.rotary, positions);
  device.write_kv(k, v, sequences, kv_.layer(layer));
  device.attention(q, kv_.layer(layer), sequences, spec.shape, out);
  device.linear(out, *weights.attention_out, at.x, true);
  return {k, v, kv_.layer(layer)};
}

Logits Transformer::head(const Batch& batch, const Resident& at) {
  const Timed timed(context_.metrics.phases.head);
  Logits out;
  std::vector<std::int32_t> indices;
  for (std::size_t i = 0; i < at.rows.size(); ++i) {
    const std::int32_t row = at.rows[i];
    if (batch.sampled[row] == 0 || (batch.of(row).replicated && batch.of(row).home != context_.comm.rank())) continue;
    out.rows.push_back(row);
    indices.push_back(static_cast<std::int32_t>(i));
  }
  const auto rows = static_cast<std::int64_t>(indices.size());
  context_.scratch.reset();
  const Tensor sampled = context_.scratch.take(rows, at.x.cols);
  const Tensor logits = context_.scratch.take(rows, spec_.vocabulary);
  context_.device.gather(at.x, indices, sampled);
  context_.device.rms_norm(sampled, weights_.final_norm.view, spec_.rms_epsilon, sampled);
  context_.device.linear(sampled, *weights_.head, logits);
  logits_.resize(static_cast<std::size_t>(rows * spec_.vocabulary));
  context_.device.download(logits, logits_);
  out.values = logits_;
  return out;
}

}  // namespace coterie
