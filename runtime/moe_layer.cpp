#include "runtime/moe_layer.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace coterie {
namespace {

constexpr std::uint64_t kPartialSumsFollow = 1;  ///< a message's flag: its sender's rows need the second exchange

SectionSizes sizes_of(std::initializer_list<std::pair<Section, std::uint64_t>> sections) {
  SectionSizes sizes{};
  for (const auto& [section, bytes] : sections) sizes[static_cast<std::size_t>(section)] = bytes;
  return sizes;
}

/// Arrived rows whose partial sums one rank wants.
struct Wanted {
  std::vector<std::int32_t> arrived;
  std::vector<std::int32_t> rows;  ///< of the batch
};

/// Sums each wanted row's share of the experts' outputs into `sums`.
void sum(Device& device, const GroupedRows& groups, const Tensor& outputs, const Wanted& wanted, const Tensor& sums) {
  std::vector<std::int64_t> offsets{0};
  std::vector<Contribution> contributions;
  for (const std::int32_t row : wanted.arrived) {
    contributions.insert(contributions.end(), groups.contributions.begin() + groups.offsets[row],
                         groups.contributions.begin() + groups.offsets[row + 1]);
    offsets.push_back(static_cast<std::int64_t>(contributions.size()));
  }
  device.combine(outputs, offsets, contributions, sums);
}

/// Shared experts' sums follow the experts' in a message, their rows told apart by the sign of the label.
std::int32_t label_of_shared(std::int32_t row) {
  return -1 - row;
}

/// The experts' sums, and those of the shared expert.
std::pair<PartialSums, PartialSums> parted(const LabelledRows& came) {
  PartialSums of_experts{came.labels(), {}};
  PartialSums of_shared;
  const auto middle =
      std::find_if(of_experts.rows.begin(), of_experts.rows.end(), [](auto label) { return label < 0; });
  for (auto label = middle; label != of_experts.rows.end(); ++label) of_shared.rows.push_back(label_of_shared(*label));
  const auto n = middle - of_experts.rows.begin();
  of_experts.rows.erase(middle, of_experts.rows.end());
  of_experts.sums = came.rows.row_range(0, n);
  of_shared.sums = came.rows.row_range(n, came.rows.rows - n);
  return {std::move(of_experts), std::move(of_shared)};
}

}  // namespace

Outbox MoeLayer::depart(const Batch& batch, InFlight& flight, Scratch& scratch, const RoutingObserver& observe) const {
  const Resident& at = flight.at;
  {
    const Timed timed(context_.metrics.phases.router);
    const Tensor normed = scratch.take(at.x.rows, at.x.cols);
    weights_.mlp_norm.apply(context_.device, at.x, normed);
    Routing routing = context_.device.route(normed, *weights_.moe.router, spec_.router,
                                            {weights_.moe.router_bias.view, weights_.moe.router_correction.view});
    if (observe) observe(batch, at.rows, index_, routing);
    for (float& weight : routing.weights) weight *= residual_scale_;
    flight.plan = plan_rows(batch, at.rows, routing, index_, context_.ownership, context_.domains);
    context_.metrics.now().dense_rows += at.x.rows;
    context_.metrics.now().moved_rows += at.x.rows - static_cast<std::int64_t>(flight.plan.stay.size());
  }
  const Timed timed(context_.metrics.phases.exchange);
  return pack(batch, flight);
}

void MoeLayer::arrive(const Batch& batch, Inbox arrived, InFlight& flight, Scratch& scratch, Scratch& next) const {
  flight.arrived = std::move(arrived);
  {
    const Timed timed(context_.metrics.phases.exchange);
    for (Message& message : flight.arrived) {
      flight.freight.store(context_.device, batch, message.section(Section::freight));
    }
    flight.landed = gather(flight, scratch, next);
  }
  const Timed timed(context_.metrics.phases.experts);
  if (spec_.shared) share(batch, flight, scratch);
  compute(batch, flight, scratch);
}

bool MoeLayer::partial_sums_follow(const InFlight& flight) {
  return std::any_of(flight.arrived.begin(), flight.arrived.end(),
                     [](const Message& m) { return (m.flags() & kPartialSumsFollow) != 0; });
}

Resident MoeLayer::land(InFlight& flight, Inbox& sums) const {
  const Timed timed(context_.metrics.phases.exchange);
  const Resident& here = flight.landed;
  std::vector<PartialSums> shared{std::move(flight.shared)};
  for (int rank = 0; rank < context_.comm.ranks(); ++rank) {
    if (rank == context_.comm.rank()) {
      add(flight.here, here);
    } else if (!sums.empty()) {
      const LabelledRows came(sums[rank].section(Section::partial_sums), here.x.cols, here.x.type);
      auto [of_experts, of_shared] = parted(came);
      add(of_experts, here);
      shared.push_back(std::move(of_shared));
    }
  }
  for (const PartialSums& partial : shared) add(partial, here);
  return here;
}

Outbox MoeLayer::pack(const Batch& batch, const InFlight& flight) const {
  const auto& at = flight.at;
  const auto& plan = flight.plan;
  const DType type = context_.device.activation_type();
  const int self = context_.comm.rank();
  const auto flags = plan.partial_sums ? kPartialSumsFollow : std::uint64_t{0};

  std::vector<std::int32_t> carried;
  if (context_.domains.coherent()) carried = carried_rows(batch, at.rows);
  std::vector<std::int32_t> carried_labels;
  for (const std::int32_t i : carried) carried_labels.push_back(at.rows[i]);
  const std::uint64_t freight_bytes =
      LabelledRows::bytes(static_cast<std::int64_t>(carried.size()), flight.freight.width(), type);

  Outbox out(plan.to.size());
  for (int rank = 0; rank < static_cast<int>(plan.to.size()); ++rank) {
    const RowsFor& to = plan.to[rank];
    const bool takes_freight = rank != self && context_.domains.together(rank, self) && !carried.empty();
    if (rank != self) context_.metrics.now().rows_sent += static_cast<std::int64_t>(to.rows.size());
    if (takes_freight) context_.metrics.now().freight_sent += static_cast<std::int64_t>(carried.size());
    if (to.rows.empty() && !takes_freight && flags == 0) continue;
    const std::uint64_t tag_bytes = to.tags.size() * sizeof(RowTag);
    out[rank] = Message(sizes_of({{Section::rows, to.rows.size() * at.x.cols * size_of(type)},
                                  {Section::routes, tag_bytes + to.routes.size() * sizeof(Route)},
                                  {Section::freight, takes_freight ? freight_bytes : 0}}),
                        flags);
    if (!to.rows.empty()) {
      context_.device.gather(at.x, to.rows, as_rows(out[rank].section(Section::rows)));
      const auto records = out[rank].section(Section::routes);
      std::memcpy(records.data(), to.tags.data(), tag_bytes);
      std::memcpy(records.data() + tag_bytes, to.routes.data(), records.size() - tag_bytes);
    }
    if (takes_freight) {
      flight.freight.pack(context_.device, carried, carried_labels, out[rank].section(Section::freight));
    }
  }
  return out;
}

void MoeLayer::share(const Batch& batch, InFlight& flight, Scratch& scratch) const {
  const Resident& here = flight.landed;
  std::vector<std::int32_t> mine;
  for (std::size_t i = 0; i < here.rows.size(); ++i) {
    const BatchSequence& sequence = batch.of(here.rows[i]);
    if (sequence.replicated && sequence.home != context_.comm.rank()) continue;
    mine.push_back(static_cast<std::int32_t>(i));
    flight.shared.rows.push_back(here.rows[i]);
  }
  const auto rows = static_cast<std::int64_t>(mine.size());
  const Tensor normed = scratch.take(rows, here.x.cols);
  const Tensor outputs = scratch.take(rows, here.x.cols);
  flight.shared.sums = scratch.take(rows, here.x.cols);
  context_.device.gather(here.x, mine, normed);
  weights_.mlp_norm.apply(context_.device, normed, normed);
  const std::vector<ExpertRows> all{{weights_.moe.shared.get(), 0, rows}};
  context_.device.experts(normed, all, outputs);

  std::vector<float> gates(mine.size(), 1);
  if (weights_.moe.shared_gate) gates = context_.device.gate(normed, *weights_.moe.shared_gate);
  std::vector<std::int64_t> offsets{0};
  std::vector<Contribution> contributions;
  for (std::int32_t i = 0; i < rows; ++i) {
    contributions.push_back({i, residual_scale_ * gates[i]});
    offsets.push_back(i + 1);
  }
  context_.device.combine(outputs, offsets, contributions, flight.shared.sums);
}

void MoeLayer::compute(const Batch& batch, InFlight& flight, Scratch& scratch) const {
  Inbox& arrived = flight.arrived;
  const GroupedRows groups =
      group_by_expert(routes_of(arrived), spec_.router.top_k, static_cast<int>(spec_.experts.size()));
  const auto rows = static_cast<std::int64_t>(groups.offsets.size()) - 1;
  const auto pairs = static_cast<std::int64_t>(groups.arrived.size());
  const std::int64_t hidden = flight.at.x.cols;
  const Tensor normed = scratch.take(rows, hidden);
  const Tensor inputs = scratch.take(pairs, hidden);
  const Tensor outputs = scratch.take(pairs, hidden);

  std::vector<Wanted> wanted(arrived.size());
  std::int32_t first = 0;
  for (int from = 0; from < static_cast<int>(arrived.size()); ++from) {
    const Tensor x = as_rows(arrived[from].section(Section::rows));
    weights_.mlp_norm.apply(context_.device, x, normed.row_range(first, x.rows));
    for (const RowTag& tag : tags_of(arrived[from])) {
      const auto want = [&](int rank) {
        wanted[rank].arrived.push_back(first);
        wanted[rank].rows.push_back(tag.row);
      };
      const bool has_experts = groups.offsets[first + 1] > groups.offsets[first];
      if (has_experts && tag.landing == RowTag::kEverywhere) {
        for (const int rank : context_.domains.ranks(context_.domains.of(from))) want(rank);
      } else if (has_experts) {
        want(tag.landing);
      }
      ++first;
    }
  }
  context_.device.gather(normed, groups.arrived, inputs);
  context_.device.experts(inputs, calls(groups), outputs);
  context_.metrics.expert_rows[index_] += pairs;
  context_.metrics.now().expert_rows += pairs;

  std::vector<std::int32_t> told;         // indices of shared sums that the domain's other ranks lack
  std::vector<std::int32_t> told_labels;  // and their labels
  for (std::size_t i = 0; i < flight.shared.rows.size(); ++i) {
    if (!batch.of(flight.shared.rows[i]).replicated) continue;
    told.push_back(static_cast<std::int32_t>(i));
    told_labels.push_back(label_of_shared(flight.shared.rows[i]));
  }
  flight.sums.resize(arrived.size());
  for (int rank = 0; rank < static_cast<int>(arrived.size()); ++rank) {
    Wanted& want = wanted[rank];
    const auto n = static_cast<std::int64_t>(want.rows.size());
    if (rank == context_.comm.rank()) {
      flight.here = {want.rows, scratch.take(n, hidden)};
      sum(context_.device, groups, outputs, want, flight.here.sums);
      continue;
    }
    const bool tells = context_.domains.together(rank, context_.comm.rank());
    const auto shared = static_cast<std::int64_t>(tells ? told.size() : 0);
    if (n + shared == 0) continue;
    context_.metrics.now().sums_sent += n + shared;
    const DType type = context_.device.activation_type();
    flight.sums[rank] = Message(sizes_of({{Section::partial_sums, LabelledRows::bytes(n + shared, hidden, type)}}));
    const LabelledRows section(flight.sums[rank].section(Section::partial_sums), hidden, type);
    if (tells) want.rows.insert(want.rows.end(), told_labels.begin(), told_labels.end());
    section.set_labels(want.rows);
    sum(context_.device, groups, outputs, want, section.rows.row_range(0, n));
    if (shared > 0) context_.device.gather(flight.shared.sums, told, section.rows.row_range(n, shared));
  }
}

Resident MoeLayer::gather(InFlight& flight, Scratch& scratch, Scratch& next) const {
  const Resident& at = flight.at;
  const RowPlan& plan = flight.plan;
  struct Source {
    std::int32_t row = 0;
    std::int32_t index = 0;  ///< among `all`
  };
  std::vector<Source> sources;
  std::vector<std::pair<Tensor, std::vector<std::int32_t>>> pieces;
  const auto take = [&](const Tensor& from, std::int32_t index, std::int32_t row) {
    if (pieces.empty() || pieces.back().first.data != from.data) pieces.push_back({from, {}});
    pieces.back().second.push_back(index);
    sources.push_back({row, static_cast<std::int32_t>(sources.size())});
  };
  for (const std::int32_t i : plan.stay) take(at.x, i, at.rows[i]);
  for (int from = 0; from < static_cast<int>(flight.arrived.size()); ++from) {
    if (from == context_.comm.rank()) continue;
    const Tensor x = as_rows(flight.arrived[from].section(Section::rows));
    const auto tags = tags_of(flight.arrived[from]);
    for (std::size_t i = 0; i < tags.size(); ++i) {
      if (tags[i].landing == context_.comm.rank()) take(x, static_cast<std::int32_t>(i), tags[i].row);
    }
  }
  if (sources.size() == plan.stay.size() && plan.stay.size() == at.rows.size()) return at;  // nothing moved

  const Tensor all = scratch.take(static_cast<std::int64_t>(sources.size()), at.x.cols);
  std::int64_t first = 0;
  for (const auto& [from, indices] : pieces) {
    context_.device.gather(from, indices, all.row_range(first, static_cast<std::int64_t>(indices.size())));
    first += static_cast<std::int64_t>(indices.size());
  }
  std::sort(sources.begin(), sources.end(), [](const Source& a, const Source& b) { return a.row < b.row; });
  Resident here;
  std::vector<std::int32_t> order;
  for (const Source& source : sources) {
    here.rows.push_back(source.row);
    order.push_back(source.index);
  }
  here.x = next.take(all.rows, all.cols);
  context_.device.gather(all, order, here.x);
  return here;
}

void MoeLayer::add(const PartialSums& partial, const Resident& to) const {
  if (partial.rows.empty()) return;
  std::vector<std::int64_t> offsets(to.rows.size() + 1, 0);
  std::vector<Contribution> contributions(partial.rows.size());
  std::vector<std::size_t> place(partial.rows.size());
  for (std::size_t i = 0; i < partial.rows.size(); ++i) {
    const auto found = std::lower_bound(to.rows.begin(), to.rows.end(), partial.rows[i]);
    if (found == to.rows.end() || *found != partial.rows[i]) {
      throw CommError("layer " + std::to_string(index_) + ": a partial sum arrived for row " +
                      std::to_string(partial.rows[i]) + ", which is not on this rank");
    }
    place[i] = static_cast<std::size_t>(found - to.rows.begin());
    ++offsets[place[i] + 1];
  }
  std::partial_sum(offsets.begin(), offsets.end(), offsets.begin());
  std::vector<std::int64_t> next(offsets.begin(), offsets.end() - 1);
  for (std::size_t i = 0; i < partial.rows.size(); ++i) {
    contributions[next[place[i]]++] = {static_cast<std::int32_t>(i), 1.0F};
  }
  context_.device.combine(partial.sums, offsets, contributions, to.x, true);
}

std::vector<RowTag> MoeLayer::tags_of(const Message& message) const {
  const auto records = message.section(Section::routes);
  const std::size_t record = sizeof(RowTag) + static_cast<std::size_t>(spec_.router.top_k) * sizeof(Route);
  std::vector<RowTag> tags(records.size() / record);
  if (!tags.empty()) std::memcpy(tags.data(), records.data(), tags.size() * sizeof(RowTag));
  return tags;
}

std::vector<Route> MoeLayer::routes_of(const Inbox& arrived) const {
  std::vector<Route> routes;
  for (const Message& message : arrived) {
    const std::size_t tag_bytes = tags_of(message).size() * sizeof(RowTag);
    const auto records = message.section(Section::routes).subspan(tag_bytes);
    const std::size_t before = routes.size();
    routes.resize(before + records.size() / sizeof(Route));
    if (!records.empty()) std::memcpy(&routes[before], records.data(), records.size());
  }
  return routes;
}

std::vector<ExpertRows> MoeLayer::calls(const GroupedRows& groups) const {
  std::vector<ExpertRows> out;
  for (std::size_t g = 0; g < groups.experts.size(); ++g) {
    const ExpertWeights* expert = weights_.moe.experts[groups.experts[g]].get();
    if (expert == nullptr) {
      throw CommError("layer " + std::to_string(index_) + ": a row arrived for expert " +
                      std::to_string(groups.experts[g]) + ", which this rank doesn't hold");
    }
    out.push_back({expert, groups.first[g], groups.first[g + 1] - groups.first[g]});
  }
  return out;
}

Tensor MoeLayer::as_rows(std::span<std::byte> section) const {
  const std::int64_t hidden = weights_.mlp_norm.weight.view.cols;
  const DType type = context_.device.activation_type();
  const auto rows = static_cast<std::int64_t>(section.size()) / (hidden * static_cast<std::int64_t>(size_of(type)));
  return {section.data(), type, rows, hidden, hidden};
}

}  // namespace coterie
