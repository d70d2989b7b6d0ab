#include "runtime/transformer.hpp"

#include <cstring>
#include <utility>

namespace coterie {

namespace {

/// One message of two: what `a` dispatches and the partial sums of `b`.
Message joined(Message a, Message b) {
  if (b.wire().empty()) return a;
  SectionSizes sizes{};
  for (std::size_t s = 0; s < kSections; ++s) {
    const auto section = static_cast<Section>(s);
    sizes[s] = (section == Section::partial_sums ? b : a).section(section).size();
  }
  Message out(sizes, a.flags());
  for (std::size_t s = 0; s < kSections; ++s) {
    const auto section = static_cast<Section>(s);
    const auto from = (section == Section::partial_sums ? b : a).section(section);
    if (!from.empty()) std::memcpy(out.section(section).data(), from.data(), from.size());
  }
  return out;
}

}  // namespace

Transformer::Transformer(const ModelSpec& spec, const Weights& weights, KvPool& kv, RankContext& context,
                         int micro_batches)
    : spec_(spec), weights_(weights), kv_(kv), context_(context) {
  for (int m = 0; m < micro_batches; ++m) micro_batches_.emplace_back(context.device);
  for (int l = 0; l < static_cast<int>(spec.layers.size()); ++l) {
    moe_.emplace_back(l, spec.layers[l].moe, spec.rms_epsilon, weights.layers[l], context);
  }
}

Logits Transformer::forward(const Batch& batch, std::int64_t step, const RoutingObserver& observe) {
  const int micro_batches = static_cast<int>(micro_batches_.size());
  for (int m = 0; m < micro_batches; ++m) start(batch, m);
  // Where every rank has every row there is nothing to dispatch, and partial sums have an exchange to themselves.
  const bool dispatches = micro_batches > 1 || !batch.replicated_everywhere(context_.domains.count());
  const bool always_settles = !context_.domains.coherent() || !dispatches;
  Waiting waiting;
  for (int layer = 0; layer < static_cast<int>(spec_.layers.size()); ++layer) {
    for (int m = 0; m < micro_batches; ++m) {
      if (waiting.micro_batch == m) settle(waiting, always_settles, step);
      MicroBatch& rows = micro_batches_[m];
      rows.scratch.reset();
      InFlight flight;
      flight.freight = attention(layer, batch, rows);
      flight.at = std::move(rows.at);
      Outbox out = moe_[layer].depart(batch, flight, rows.scratch, observe);
      Inbox arrived;
      if (dispatches) {
        const Timed timed(context_.metrics.phases.exchange);
        for (std::size_t r = 0; r < waiting.flight.sums.size(); ++r) {
          out[r] = joined(std::move(out[r]), std::move(waiting.flight.sums[r]));
        }
        arrived = context_.comm.exchange(std::move(out), {"dispatch", layer, step});
      } else {
        arrived = std::move(out);
      }
      if (waiting.micro_batch >= 0) land(waiting, arrived);
      moe_[layer].arrive(batch, std::move(arrived), flight, rows.scratch);
      waiting = {m, layer, std::move(flight)};
    }
  }
  settle(waiting, always_settles, step);
  return head(batch);
}

void Transformer::settle(Waiting& waiting, bool always, std::int64_t step) {
  Inbox sums;
  if (always || MoeLayer::partial_sums_follow(waiting.flight)) {
    const Timed timed(context_.metrics.phases.exchange);
    sums = context_.comm.exchange(std::move(waiting.flight.sums), {"combine", waiting.layer, step});
  }
  land(waiting, sums);
}

void Transformer::land(Waiting& waiting, Inbox& sums) {
  MicroBatch& rows = micro_batches_[waiting.micro_batch];
  Scratch& next = rows.streams[1 - rows.stream];
  next.reset();
  rows.at = moe_[waiting.layer].land(waiting.flight, sums, rows.scratch, next);
  if (rows.at.x.data != waiting.flight.at.x.data) rows.stream = 1 - rows.stream;
  waiting = {};
}

void Transformer::start(const Batch& batch, int micro_batch) {
  MicroBatch& rows = micro_batches_[micro_batch];
  std::vector<std::int32_t> tokens;
  rows.at = {};
  for (std::int32_t row = 0; row < batch.rows(); ++row) {
    if (batch.sequence[row] % static_cast<int>(micro_batches_.size()) != micro_batch) continue;
    if (batch.of(row).start != context_.comm.rank() && !batch.of(row).replicated) continue;
    rows.at.rows.push_back(row);
    tokens.push_back(batch.tokens[row]);
  }
  Scratch& stream = rows.streams[rows.stream];
  stream.reset();
  rows.at.x = stream.take(static_cast<std::int64_t>(tokens.size()), spec_.hidden);
  context_.device.gather(weights_.embedding.view, tokens, rows.at.x);
}

Freight Transformer::attention(int layer, const Batch& batch, MicroBatch& rows) {
  const Resident& at = rows.at;
  Scratch& scratch = rows.scratch;
  const Timed timed(context_.metrics.phases.attention);
  const AttentionSpec& spec = spec_.layers[layer].attention;
  const LayerWeights& weights = weights_.layers[layer];
  Device& device = context_.device;
  const auto sequences = sequence_rows(batch, at.rows);
  const auto positions = positions_of(batch, at.rows);

  const Tensor normed = scratch.take(at.x.rows, at.x.cols);
  const Tensor qkv = scratch.take(at.x.rows, spec.q_width() + 2 * spec.kv_width());
  const Tensor q = qkv.col_range(0, spec.q_width());
  const Tensor k = qkv.col_range(spec.q_width(), spec.kv_width());
  const Tensor v = qkv.col_range(spec.q_width() + spec.kv_width(), spec.kv_width());
  const Tensor out = scratch.take(at.x.rows, spec.q_width());

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

Logits Transformer::head(const Batch& batch) {
  const Timed timed(context_.metrics.phases.head);
  Logits out;
  std::vector<std::vector<std::int32_t>> sampled(micro_batches_.size());  // indices among a micro-batch's rows
  for (std::size_t m = 0; m < micro_batches_.size(); ++m) {
    const std::vector<std::int32_t>& rows = micro_batches_[m].at.rows;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const BatchSequence& sequence = batch.of(rows[i]);
      if (batch.sampled[rows[i]] == 0 || (sequence.replicated && sequence.home != context_.comm.rank())) continue;
      out.rows.push_back(rows[i]);
      sampled[m].push_back(static_cast<std::int32_t>(i));
    }
  }
  Scratch& scratch = micro_batches_.front().scratch;
  scratch.reset();
  const auto rows = static_cast<std::int64_t>(out.rows.size());
  const Tensor x = scratch.take(rows, spec_.hidden);
  const Tensor logits = scratch.take(rows, spec_.vocabulary);
  std::int64_t first = 0;
  for (std::size_t m = 0; m < micro_batches_.size(); ++m) {
    const auto n = static_cast<std::int64_t>(sampled[m].size());
    context_.device.gather(micro_batches_[m].at.x, sampled[m], x.row_range(first, n));
    first += n;
  }
  context_.device.rms_norm(x, weights_.final_norm.view, spec_.rms_epsilon, x);
  context_.device.linear(x, *weights_.head, logits);
  logits_.resize(static_cast<std::size_t>(rows * spec_.vocabulary));
  context_.device.download(logits, logits_);
  out.values = logits_;
  return out;
}

}  // namespace coterie
