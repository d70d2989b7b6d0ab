#include "runtime/experts/expert_layer.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>

namespace coterie {
namespace {

constexpr std::int64_t kManyRows = 1 << 20;  // what all ranks have when they don't know it

template <class T>
std::span<T> view_of(std::span<std::byte> bytes) {
  return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
}

/// Bytes of the gradients of one expert's weights in a message; a multiple of 64.
std::uint64_t gradient_bytes(const ExpertLayerShape& shape) {
  return (static_cast<std::uint64_t>(3 * shape.hidden * shape.intermediate) * sizeof(float) + 63) / 64 * 64;
}

ExpertGradients gradients_at(const ExpertLayerShape& shape, const DeviceBytes& block) {
  const std::int64_t h = shape.hidden, i = shape.intermediate;
  std::byte* const down = block.address() + static_cast<std::size_t>(2 * i * h) * sizeof(float);
  return {{block.address(), DType::f32, 2 * i, h, h}, {down, DType::f32, h, i, i}};
}

}  // namespace

ExpertLayer::ExpertLayer(const ExpertLayerShape& shape, DispatchLayer placement, const SpillOptions& spill,
                         Device& device, Communicator& comm)
    : shape_(shape), placement_(std::move(placement)), device_(device), comm_(comm), scratch_(device) {
  if (placement_.ranks != comm.ranks()) {
    throw std::invalid_argument("ExpertLayer: a placement for " + std::to_string(placement_.ranks) + " ranks on " +
                                std::to_string(comm.ranks()));
  }
  if (device.activation_type() != DType::f32) throw std::invalid_argument("ExpertLayer: activations must be f32");
  for (int e = 0; e < placement_.experts; ++e) {
    if (placement_.held[static_cast<std::size_t>(e) * placement_.ranks + comm.rank()] != 0) held_.push_back(e);
    if (owner(e) == comm.rank()) owned_.push_back(e);
  }
  set_dispatch(spill);
}

void ExpertLayer::set_dispatch(const SpillOptions& spill) {
  plain_ = spill.dispatch.policy == DispatchPolicy::plain;
  SpillOptions options = spill;
  options.expert_bytes = 3 * shape_.hidden * shape_.intermediate * static_cast<std::int64_t>(sizeof(float));
  spill_.emplace(options, std::vector{placement_}, comm_.rank(), device_);
}

void ExpertLayer::set_weights(int expert, std::span<const float> gate_up, std::span<const float> down) {
  const auto numbers = static_cast<std::size_t>(shape_.hidden * shape_.intermediate);
  if (!std::binary_search(held_.begin(), held_.end(), expert) || gate_up.size() != 2 * numbers ||
      down.size() != numbers) {
    throw std::invalid_argument("ExpertLayer: the weights given for expert " + std::to_string(expert) +
                                " are none of this rank's");
  }
  const auto pack = [&](std::span<const float> from, std::int64_t rows, std::int64_t cols) {
    return device_.pack({rows, cols, [=](std::int64_t first, std::int64_t count, float* out) {
                           std::copy_n(from.data() + first * cols, count * cols, out);
                         }});
  };
  ExpertWeights& weights = weights_[expert];
  weights.gate_up = pack(gate_up, 2 * shape_.intermediate, shape_.hidden);
  weights.down = pack(down, shape_.hidden, shape_.intermediate);
  weights.gating = shape_.gating;
  spill_->weights_changed();
}

ExpertPass ExpertLayer::forward(const Tensor& x, const Choices& choices, const Tensor& out) {
  ExpertPass pass;
  SpillCall call;
  Outbox dispatched = depart(x, choices, pass, call);
  Exchange exchange(comm_, std::move(dispatched), place("dispatch"));
  arrive(exchange.rows(), pass);

  scratch_.reset();
  const Tensor in = scratch_.take(pass.computed(), shape_.hidden);
  const Tensor results = scratch_.take(pass.computed(), shape_.hidden);
  gather_pairs(exchange.rows(), pass, in);
  const auto take = [&](Inbox& all) {
    spill_->take(
        0, all, [&](int) { return shape_.gating; }, call);
  };
  compute_experts({pass.groups, shape_.index, in, results, [&](int e) { return weights(e, call.experts); }, take},
                  exchange, device_);
  spill_->done(call);
  pass.guests = std::move(call.experts);
  pass.arrived = std::move(exchange.all());

  Outbox sums(comm_.ranks());
  for (int r = 0; r < comm_.ranks(); ++r) {
    const std::int64_t rows = pass.first[r + 1] - pass.first[r];
    if (rows == 0) continue;
    sums[r] = Message(sizes_of({{Bulk::partial_sums, row_bytes(rows)}}));
    sum_pairs(results, pass.groups.contributions, pass, r, as_rows(sums[r].section(Bulk::partial_sums)));
  }
  Inbox came = comm_.exchange(std::move(sums), place("combine"));
  sum_ranks(came, pass, out);
  return pass;
}

Outbox ExpertLayer::depart(const Tensor& x, const Choices& choices, ExpertPass& pass, SpillCall& call) {
  const auto count = static_cast<std::size_t>(x.rows * shape_.top_k);
  if (x.cols != shape_.hidden || choices.experts.size() != count || choices.gates.size() != count) {
    throw std::invalid_argument("ExpertLayer: rows must be as wide as the layer, each with top_k choices");
  }
  if (weights_.size() != held_.size()) throw std::logic_error("ExpertLayer: an expert's weights were never set");
  const std::vector<int> ranks = plan(choices, pass, call);
  pass.sent.resize(comm_.ranks());
  for (std::size_t i = 0; i < count; ++i) {
    if (ranks[i] < 0) continue;
    ExpertPass::Sent& sent = pass.sent[ranks[i]];
    const auto row = static_cast<std::int32_t>(i / shape_.top_k);
    if (sent.rows.empty() || sent.rows.back() != row) {
      sent.rows.push_back(row);
      sent.choices.resize(sent.choices.size() + shape_.top_k, -1);
    }
    *std::find(sent.choices.end() - shape_.top_k, sent.choices.end(), -1) = static_cast<std::int32_t>(i);
  }
  Outbox out(comm_.ranks());
  for (int r = 0; r < comm_.ranks(); ++r) {
    const auto gives = call.transfers.gives_to(r);
    if (!pass.sent[r].rows.empty() || !gives.empty()) out[r] = message_for(x, choices, pass.sent[r], gives);
  }
  return out;
}

std::vector<int> ExpertLayer::plan(const Choices& choices, ExpertPass& pass, SpillCall& call) {
  const int self = comm_.rank(), experts = placement_.experts;
  const std::vector<std::int32_t> counts = count_choices(choices.experts, experts);
  if (plain_ || !spill_->may_pay(0, choices.rows_of_all.value_or(kManyRows) * shape_.top_k)) {
    const auto to = std::span(placement_.destinations).subspan(static_cast<std::size_t>(self) * experts, experts);
    std::vector<int> ranks;
    for (const std::int32_t expert : choices.experts) ranks.push_back(expert < 0 ? -1 : to[expert]);
    return ranks;
  }
  const std::vector<std::int32_t> all = spill_->gather(comm_, counts, place("counts"));
  const DispatchPlan& plan = spill_->plan(0, all, call);
  pass.stayed = plan.stayed;
  pass.before = plan.before;
  pass.after = plan.after;
  return ranks_of_choices(plan, all, experts, self, choices.experts);
}

Message ExpertLayer::message_for(const Tensor& x, const Choices& choices, const ExpertPass::Sent& sent,
                                 std::span<const DispatchTransfer> gives) {
  std::uint64_t guests = 0;
  for (const DispatchTransfer& give : gives) guests += parcel_bytes(weights_.at(give.expert));
  spill_->sent(guests);
  Message message(sizes_of({{Section::routes, sent.choices.size() * sizeof(Route)},
                            {Section::forms, gives.size() * sizeof(ExpertForm)},
                            {Bulk::rows, row_bytes(static_cast<std::int64_t>(sent.rows.size()))},
                            {Bulk::weights, guests}}));
  device_.gather(x, sent.rows, as_rows(message.section(Bulk::rows)));
  const auto routes = view_of<Route>(message.section(Section::routes));
  for (std::size_t i = 0; i < routes.size(); ++i) {
    const std::int32_t choice = sent.choices[i];
    routes[i] = choice < 0 ? Route{} : Route{choices.experts[choice], choices.gates[choice]};
  }
  ParcelRoom room{message.section(Section::forms), message.section(Bulk::weights)};
  for (const DispatchTransfer& give : gives) pack_parcel(weights_.at(give.expert), give.expert, device_, room);
  return message;
}

void ExpertLayer::arrive(Inbox& arrived, ExpertPass& pass) const {
  std::vector<Route> routes;
  pass.first.push_back(0);
  for (Message& message : arrived) {
    const auto came = view_of<Route>(message.section(Section::routes));
    routes.insert(routes.end(), came.begin(), came.end());
    pass.first.push_back(static_cast<std::int64_t>(routes.size()) / shape_.top_k);
    if (as_rows(message.section(Bulk::rows)).rows != pass.first.back() - *(pass.first.end() - 2)) {
      throw CommError("ExpertLayer: rows arrived without their routes");
    }
  }
  pass.groups = group_by_expert(routes, shape_.top_k, placement_.experts);
}

const ExpertWeights* ExpertLayer::weights(int expert, const decltype(ExpertPass::guests)& guests) const {
  if (const auto held = weights_.find(expert); held != weights_.end()) return &held->second;
  const auto guest = guests.find(expert);
  return guest != guests.end() ? guest->second.get() : nullptr;
}

std::vector<ExpertRows> ExpertLayer::calls(const ExpertPass& pass) const {
  std::vector<ExpertRows> out;
  for (std::size_t g = 0; g < pass.groups.experts.size(); ++g) {
    const std::int64_t first = pass.groups.first[g];
    out.push_back({weights(pass.groups.experts[g], pass.guests), first, pass.groups.first[g + 1] - first});
  }
  return out;
}

void ExpertLayer::gather_pairs(Inbox& from, const ExpertPass& pass, const Tensor& out) const {
  const std::vector<std::int32_t>& arrived = pass.groups.arrived;
  std::vector<std::int32_t> rows;
  for (std::size_t begin = 0; begin < arrived.size(); begin += rows.size()) {  // those of one sender at a time
    const auto next = std::upper_bound(pass.first.begin(), pass.first.end(), arrived[begin]);
    const std::int64_t first = *(next - 1);
    rows.clear();
    for (std::size_t i = begin; i < arrived.size() && arrived[i] >= first && arrived[i] < *next; ++i) {
      rows.push_back(static_cast<std::int32_t>(arrived[i] - first));
    }
    device_.gather(as_rows(from[next - 1 - pass.first.begin()].section(Bulk::rows)), rows,
                   out.row_range(static_cast<std::int64_t>(begin), static_cast<std::int64_t>(rows.size())));
  }
}

void ExpertLayer::sum_pairs(const Tensor& pairs, std::span<const Contribution> contributions, const ExpertPass& pass,
                            int rank, const Tensor& out) const {
  const auto first = static_cast<std::size_t>(pass.first[rank]);
  const auto offsets = std::span(pass.groups.offsets).subspan(first, static_cast<std::size_t>(out.rows) + 1);
  device_.combine(pairs, offsets, contributions, out);
}

void ExpertLayer::sum_ranks(Inbox& sums, const ExpertPass& pass, const Tensor& out) const {
  for (int r = 0; r < comm_.ranks(); ++r) {
    const std::vector<std::int32_t>& rows = pass.sent[r].rows;
    if (r > 0 && rows.empty()) continue;
    const Tensor came = as_rows(sums[r].section(Bulk::partial_sums));
    if (came.rows != static_cast<std::int64_t>(rows.size())) {
      throw CommError("ExpertLayer: rank " + std::to_string(r) + " sent back " + std::to_string(came.rows) + " of " +
                      std::to_string(rows.size()) + " rows");
    }
    std::vector<std::int64_t> offsets(static_cast<std::size_t>(out.rows) + 1, 0);
    std::vector<Contribution> contributions;
    for (const std::int32_t row : rows) {
      offsets[row + 1] = 1;
      contributions.push_back({static_cast<std::int32_t>(contributions.size()), 1});
    }
    std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
    device_.combine(came, offsets, contributions, out, r > 0);
  }
}

void ExpertLayer::backward(ExpertPass pass, const Tensor& out_gradient, const Gradients& gradients) {
  if (gradients.weights.size() != owned_.size()) {
    throw std::invalid_argument("ExpertLayer: gradients for " + std::to_string(gradients.weights.size()) + " of " +
                                std::to_string(owned_.size()) + " owned experts");
  }
  Outbox rows(comm_.ranks());
  for (int r = 0; r < comm_.ranks(); ++r) {
    const std::vector<std::int32_t>& sent = pass.sent[r].rows;
    if (sent.empty()) continue;
    rows[r] = Message(sizes_of({{Bulk::rows, row_bytes(static_cast<std::int64_t>(sent.size()))}}));
    device_.gather(out_gradient, sent, as_rows(rows[r].section(Bulk::rows)));
  }
  Inbox arrived = comm_.exchange(std::move(rows), place("dispatch of gradients"));

  scratch_.reset();
  const Tensor in = scratch_.take(pass.computed(), shape_.hidden);
  const Tensor by_result = scratch_.take(pass.computed(), shape_.hidden);
  const Tensor by_in = scratch_.take(pass.computed(), shape_.hidden);
  gather_pairs(pass.arrived, pass, in);
  gather_pairs(arrived, pass, by_result);
  arrived.clear();
  std::vector<float> gates(static_cast<std::size_t>(pass.computed())), by_gate(gates.size());
  std::vector<Contribution> unweighted = pass.groups.contributions;
  for (Contribution& contribution : unweighted) gates[contribution.row] = std::exchange(contribution.weight, 1.0F);
  std::vector<ExpertGradients> of_groups;
  Outbox back = gradient_messages(pass, gradients, of_groups);
  device_.experts_backward({in, by_result, gates, by_in, by_gate}, calls(pass), of_groups);

  for (int r = 0; r < comm_.ranks(); ++r) {
    const Tensor sums = as_rows(back[r].section(Bulk::partial_sums));
    sum_pairs(by_in, unweighted, pass, r, sums);
    float* out = view_of<float>(back[r].section(Section::routes)).data();
    for (std::int64_t row = pass.first[r]; row < pass.first[r + 1]; ++row, out += shape_.top_k) {
      const std::int64_t begin = pass.groups.offsets[row], end = pass.groups.offsets[row + 1];
      for (std::int64_t c = begin; c < end; ++c) out[c - begin] = by_gate[pass.groups.contributions[c].row];
    }
  }
  Inbox came = comm_.exchange(std::move(back), place("combine of gradients"));
  sum_ranks(came, pass, gradients.x);
  std::fill(gradients.gates.begin(), gradients.gates.end(), 0.0F);
  for (int r = 0; r < comm_.ranks(); ++r) {
    const auto theirs = view_of<float>(came[r].section(Section::routes));
    const std::vector<std::int32_t>& choices = pass.sent[r].choices;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      if (choices[i] >= 0) gradients.gates[choices[i]] = theirs[i];
    }
  }
  add_weight_gradients(came, gradients);
}

Outbox ExpertLayer::gradient_messages(const ExpertPass& pass, const Gradients& gradients,
                                      std::vector<ExpertGradients>& of_groups) const {
  std::vector<std::vector<std::int32_t>> foreign(comm_.ranks());  // experts of other ranks, by rank
  for (const std::int32_t expert : pass.groups.experts) {
    if (owner(expert) != comm_.rank()) foreign[owner(expert)].push_back(expert);
  }
  const std::uint64_t block = gradient_bytes(shape_);
  Outbox back(comm_.ranks());
  std::vector<DeviceBytes> next;
  for (int r = 0; r < comm_.ranks(); ++r) {
    const std::int64_t rows = pass.first[r + 1] - pass.first[r];
    if (rows > 0 || !foreign[r].empty()) {
      back[r] = Message(sizes_of({{Section::routes, static_cast<std::uint64_t>(rows * shape_.top_k) * sizeof(float)},
                                  {Section::forms, foreign[r].size() * sizeof(std::int32_t)},
                                  {Bulk::partial_sums, row_bytes(rows)},
                                  {Bulk::weights, foreign[r].size() * block}}));
      std::ranges::copy(foreign[r], view_of<std::int32_t>(back[r].section(Section::forms)).begin());
    }
    next.push_back(back[r].section(Bulk::weights));
  }
  for (const std::int32_t expert : pass.groups.experts) {
    const int to = owner(expert);
    if (to == comm_.rank()) {
      const auto mine = std::lower_bound(owned_.begin(), owned_.end(), expert);
      of_groups.push_back(gradients.weights[mine - owned_.begin()]);
      continue;
    }
    of_groups.push_back(gradients_at(shape_, next[to]));
    for (const Tensor& sums : {of_groups.back().gate_up, of_groups.back().down}) set_to_zero(sums);
    next[to] = next[to].subspan(block);
  }
  return back;
}

void ExpertLayer::set_to_zero(const Tensor& x) const {
  const std::vector<std::int64_t> nothing(static_cast<std::size_t>(x.rows) + 1, 0);
  device_.combine(x.row_range(0, 0), nothing, {}, x);
}

void ExpertLayer::add_weight_gradients(Inbox& came, const Gradients& gradients) const {
  for (Message& message : came) {
    DeviceBytes blocks = message.section(Bulk::weights);
    for (const std::int32_t expert : view_of<std::int32_t>(message.section(Section::forms))) {
      const auto mine = std::lower_bound(owned_.begin(), owned_.end(), expert);
      if (mine == owned_.end() || *mine != expert) {
        throw CommError("ExpertLayer: gradients came for expert " + std::to_string(expert) +
                        ", which another rank owns");
      }
      const ExpertGradients theirs = gradients_at(shape_, blocks);
      const ExpertGradients& sum = gradients.weights[mine - owned_.begin()];
      device_.add(theirs.gate_up, 1, sum.gate_up);
      device_.add(theirs.down, 1, sum.down);
      blocks = blocks.subspan(gradient_bytes(shape_));
    }
  }
}

std::uint64_t ExpertLayer::row_bytes(std::int64_t rows) const {
  return static_cast<std::uint64_t>(rows * shape_.hidden) * sizeof(float);
}

Tensor ExpertLayer::as_rows(const DeviceBytes& section) const {
  const auto rows = static_cast<std::int64_t>(section.size() / row_bytes(1));
  return {section.address(), DType::f32, rows, shape_.hidden, shape_.hidden};
}

int ExpertLayer::owner(int expert) const {
  const auto first = placement_.held.begin() + static_cast<std::ptrdiff_t>(expert) * placement_.ranks;
  return static_cast<int>(std::find_if(first, first + placement_.ranks, [](auto h) { return h != 0; }) - first);
}

}  // namespace coterie
