#include "runtime/engine/transformer.hpp"

#include "runtime/layers/attention.hpp"

#include <algorithm>
#include <utility>

namespace coterie {

namespace {

/// One message of two for each rank: what `a` dispatches and the partial sums of `b`.
Outbox joined(Outbox a, Outbox b, std::int64_t hidden, Device& device) {
  if (b.empty()) return a;
  const std::size_t row_bytes = static_cast<std::size_t>(hidden) * size_of(device.activation_type());
  RowSums copies;  // of the rows of all messages, out of memory that a and b own
  const auto join = [&](Message& dispatch, Message& partial) {
    if (partial.empty()) return std::move(dispatch);
    if (dispatch.empty()) return std::move(partial);
    const auto source = [&](std::size_t s) -> Message& {
      return s == index_of(Section::sum_labels) || s == index_of(Bulk::partial_sums) ? partial : dispatch;
    };
    SectionSizes sizes{};
    for (std::size_t s = 0; s < kSections; ++s) sizes[s] = source(s).sizes()[s];
    Message out(sizes, dispatch.flags());
    for (std::size_t s = 0; s < kHostSections; ++s) {
      std::ranges::copy(source(s).section(static_cast<Section>(s)), out.section(static_cast<Section>(s)).begin());
    }
    for (std::size_t s = kHostSections; s < kSections; ++s) {
      const DeviceBytes from = source(s).section(static_cast<Bulk>(s)), to = out.section(static_cast<Bulk>(s));
      if (s != index_of(Bulk::rows) && s != index_of(Bulk::partial_sums)) {
        device.copy(from.span(), to.span());
        continue;
      }
      for (std::size_t at = 0; at < from.size(); at += row_bytes) {
        copies.open(to.address() + at);
        copies.add(from.address() + at);
      }
    }
    return out;
  };
  Outbox out;
  for (std::size_t r = 0; r < a.size(); ++r) out.push_back(join(a[r], b[r]));
  device.sum_rows(copies, hidden);
  return out;
}

}  // namespace

Transformer::Transformer(const ModelSpec& spec, const Weights& weights, KvPool& kv, RankContext& context,
                         int micro_batches)
    : spec_(spec), weights_(weights), kv_(kv), context_(context), layer_of_moe_(spec.moe_layer_ids()) {
  for (int m = 0; m < micro_batches; ++m) micro_batches_.emplace_back(context.device);
  for (int i = 0; i < static_cast<int>(layer_of_moe_.size()); ++i) {
    const int l = layer_of_moe_[i];
    moe_.emplace_back(i, *spec.layers[l].moe, spec.residual_scale, weights.layers[l], context);
    // Micro-batches send what belongs to two layers at once.
    auto joined = joined_ranks(i, context.ownership, context.domains);
    const bool all = joined.size() == static_cast<std::size_t>(context.comm.ranks()) || micro_batches > 1 ||
                     moe_.back().tells_tokens();
    among_.push_back(all ? std::vector<int>() : std::move(joined));
  }
  if (context.comm.ranks() > 1) return;
  for (const int l : layer_of_moe_) {
    own_.emplace_back(*spec.layers[l].moe, spec.residual_scale, weights.layers[l], context.device,
                      context.metrics.phases);
  }
  own_pairs_ = context.device.allocate_shared(own_.size() * micro_batches_.size() * sizeof(std::int32_t));
  std::ranges::fill(own_pairs(), 0);
}

Logits Transformer::forward(const Batch& batch, std::int64_t step, const RoutingObserver& observe) {
  const bool alone = !own_.empty() && !observe;
  Logits logits;
  const auto body = [&] { logits = alone ? forward_alone(batch, step) : forward_among(batch, step, observe); };
  if (batch.has_prompts()) {
    body();
  } else {
    context_.device.repeat(static_cast<std::uint64_t>(batch.rows()), body);
  }
  forward_stretch_ = context_.device.stretch();
  return logits;
}

Logits Transformer::forward_among(const Batch& batch, std::int64_t step, const RoutingObserver& observe) {
  const int micro_batches = static_cast<int>(micro_batches_.size());
  for (int m = 0; m < micro_batches; ++m) start(batch, m);
  // Where every rank has every row there is nothing to dispatch, and partial sums have an exchange to themselves.
  const bool dispatches = micro_batches > 1 || !batch.replicated_everywhere(context_.domains.count());
  const bool always_settles = !context_.domains.coherent() || !dispatches;
  Waiting waiting;
  int next_layer = 0;
  for (const MoeLayer& moe : moe_) {
    const int layer = layer_of_moe_[moe.index()];
    for (int m = 0; m < micro_batches; ++m) {
      if (waiting.micro_batch == m) settle(waiting, always_settles);
      MicroBatch& rows = micro_batches_[m];
      rows.scratch.reset();
      InFlight flight;
      flight.freight = dense_layers(next_layer, layer, batch, rows);
      flight.freight.layers.push_back(attention(layer, batch, rows));
      flight.at = std::move(rows.at);
      flight.micro_batch = m;
      flight.step = step;
      flight.tokens = rows.tokens;
      Outbox out = moe.depart(batch, flight, rows.scratch, observe);
      if (dispatches || flight.spill.travels) {
        const Timed timed(context_.metrics.phases.exchange);
        out = joined(std::move(out), std::exchange(waiting.flight.sums, {}), spec_.hidden, context_.device);
        const Place here = place("dispatch", moe, flight);
        for (int r = 0; r < context_.comm.ranks(); ++r) {
          if (!here.takes_part(r)) out[r] = {};  // flags, which don't concern it
        }
        flight.exchange = Exchange(context_.comm, std::move(out), here);
      } else {
        flight.exchange = Exchange(std::move(out));
      }
      moe.meanwhile(batch, flight, rows.scratch);
      if (waiting.micro_batch >= 0) land(waiting, flight.exchange.rows());
      Scratch& next = rows.streams[1 - rows.stream];
      next.reset();
      moe.arrive(batch, flight, rows.scratch, next);
      waiting = {m, &moe, std::move(flight)};
    }
    next_layer = layer + 1;
  }
  settle(waiting, always_settles);
  finish(batch, step);
  return head(batch);
}

Logits Transformer::forward_alone(const Batch& batch, std::int64_t step) {
  const auto pairs = own_pairs();
  for (std::size_t m = 0; m < micro_batches_.size(); ++m) {
    start(batch, static_cast<int>(m));
    MicroBatch& rows = micro_batches_[m];
    if (rows.at.rows.empty()) continue;
    int next_layer = 0;
    for (std::size_t i = 0; i < own_.size(); ++i) {
      rows.scratch.reset();
      (void)dense_layers(next_layer, layer_of_moe_[i], batch, rows);
      (void)attention(layer_of_moe_[i], batch, rows);
      own_[i].add(rows.at.x, &pairs[m * own_.size() + i], rows.scratch);
      context_.metrics.now().dense_rows += rows.at.x.rows;
      next_layer = layer_of_moe_[i] + 1;
    }
  }
  finish(batch, step);
  return head(batch);
}

void Transformer::count_pairs() {
  if (own_.empty()) return;
  if (!context_.device.is_done(forward_stretch_)) context_.device.wait();  // nothing was sampled
  const auto pairs = own_pairs();
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const std::int64_t count = std::exchange(pairs[i], 0);
    context_.metrics.expert_rows[i % own_.size()] += count;
    context_.metrics.now().expert_rows += count;
  }
}

std::span<std::int32_t> Transformer::own_pairs() const {
  return {reinterpret_cast<std::int32_t*>(own_pairs_.get()), own_.size() * micro_batches_.size()};
}

Place Transformer::place(const char* collective, const MoeLayer& layer, const InFlight& flight) const {
  std::span<const int> among = among_[layer.index()];
  if (flight.spill.planned) among = {};  // any rank may help
  return {collective, layer.index(), flight.step, context_.metrics.kind_name(), among};
}

void Transformer::settle(Waiting& waiting, bool always) {
  Inbox sums;
  if (always || MoeLayer::partial_sums_follow(waiting.flight)) {
    const Timed timed(context_.metrics.phases.exchange);
    sums = context_.comm.exchange(std::move(waiting.flight.sums), place("combine", *waiting.layer, waiting.flight));
  }
  land(waiting, sums);
}

void Transformer::land(Waiting& waiting, Inbox& sums) {
  MicroBatch& rows = micro_batches_[waiting.micro_batch];
  rows.at = waiting.layer->land(waiting.flight, sums, rows.scratch);
  if (rows.at.x.data != waiting.flight.at.x.data) rows.stream = 1 - rows.stream;
  waiting = {};
}

Freight Transformer::dense_layers(int first, int last, const Batch& batch, MicroBatch& rows) {
  Freight freight;
  for (int layer = first; layer < last; ++layer) {
    freight.layers.push_back(attention(layer, batch, rows));
    dense_mlp(layer, rows);
  }
  return freight;
}

void Transformer::finish(const Batch& batch, std::int64_t step) {
  const int first = layer_of_moe_.back() + 1;
  const int layers = static_cast<int>(spec_.layers.size());
  if (first == layers) return;
  for (MicroBatch& rows : micro_batches_) {
    rows.scratch.reset();
    const Freight freight = dense_layers(first, layers, batch, rows);
    if (!context_.domains.coherent() || batch.replicated_everywhere(context_.domains.count())) continue;
    const Timed timed(context_.metrics.phases.exchange);
    Outbox out = freight.for_peers(context_.device, context_.domains, batch, rows.at.rows);
    Inbox came =
        context_.comm.exchange(std::move(out), {"freight", moe_.back().index(), step, context_.metrics.kind_name()});
    for (Message& message : came) freight.store(context_.device, batch, message);
  }
}

void Transformer::start(const Batch& batch, int micro_batch) {
  MicroBatch& rows = micro_batches_[micro_batch];
  std::vector<std::int32_t> tokens;
  rows.at = {};
  rows.tokens = 0;
  for (std::int32_t row = 0; row < batch.rows(); ++row) {
    if (batch.sequence[row] % static_cast<int>(micro_batches_.size()) != micro_batch) continue;
    ++rows.tokens;
    if (!batch.of(row).here) continue;
    rows.at.rows.push_back(row);
    tokens.push_back(batch.tokens[row]);
  }
  Scratch& stream = rows.streams[rows.stream];
  stream.reset();
  rows.at.x = stream.take(static_cast<std::int64_t>(tokens.size()), spec_.hidden);
  context_.device.gather(weights_.embedding.view, tokens, rows.at.x);
  if (spec_.embedding_scale != 1) context_.device.scale(rows.at.x, spec_.embedding_scale);
}

KvRows Transformer::attention(int layer, const Batch& batch, MicroBatch& rows) {
  const Timed timed(context_.metrics.phases.attention);
  return attend(
      context_.device,
      {spec_.layers[layer].attention, weights_.layers[layer].attention, kv_.layer(layer), spec_.residual_scale}, batch,
      rows.at, rows.scratch);
}

void Transformer::dense_mlp(int layer, MicroBatch& rows) {
  const Timed timed(context_.metrics.phases.experts);
  const Tensor& x = rows.at.x;
  const Tensor normed = rows.scratch.take(x.rows, x.cols);
  const Tensor out = rows.scratch.take(x.rows, x.cols);
  weights_.layers[layer].mlp_norm.apply(context_.device, x, normed);
  const std::vector<ExpertRows> all{{&weights_.layers[layer].dense, 0, x.rows}};
  context_.device.experts(normed, all, out);
  context_.device.add(out, spec_.residual_scale, x);
}

Logits Transformer::head(const Batch& batch) {
  const Timed timed(context_.metrics.phases.head);
  Logits out;
  std::vector<std::vector<std::int32_t>> sampled(micro_batches_.size());  // indices among a micro-batch's rows
  for (std::size_t m = 0; m < micro_batches_.size(); ++m) {
    const std::vector<std::int32_t>& rows = micro_batches_[m].at.rows;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (batch.sampled[rows[i]] == 0) continue;
      out.rows.push_back(rows[i]);
      sampled[m].push_back(static_cast<std::int32_t>(i));
    }
  }
  Scratch& scratch = micro_batches_.front().scratch;
  scratch.reset();
  const auto rows = static_cast<std::int64_t>(out.rows.size());
  const Tensor x = scratch.take(rows, spec_.hidden);
  out.values = scratch.take(rows, spec_.vocabulary);
  std::int64_t first = 0;
  for (std::size_t m = 0; m < micro_batches_.size(); ++m) {
    const auto n = static_cast<std::int64_t>(sampled[m].size());
    context_.device.gather(micro_batches_[m].at.x, sampled[m], x.row_range(first, n));
    first += n;
  }
  weights_.final_norm.apply(context_.device, x, x);
  context_.device.linear(x, *weights_.head, out.values);
  if (weights_.head_bias) context_.device.add_bias(out.values, weights_.head_bias.view);
  if (spec_.logits_scale != 1) context_.device.scale(out.values, spec_.logits_scale);
  return out;
}

}  // namespace coterie
