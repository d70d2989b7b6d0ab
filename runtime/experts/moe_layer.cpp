#include "runtime/experts/moe_layer.hpp"

#include "runtime/experts/row_records.hpp"
#include "runtime/experts/shared_expert.hpp"

#include <algorithm>
#include <set>
#include <utility>

namespace coterie {
namespace {

constexpr std::uint64_t kPartialSumsFollow = 1;  ///< a message's flag: its sender's rows need the second exchange
constexpr int kTokensShift = 8;                  ///< the flags from here on: tokens that began the step at the sender

/// The rows that are counted as `rank`'s, as far as this rank has them: indices, in an order that all ranks which have
/// them agree on. A row that is on all ranks of its domain counts at home, before home's other rows.
std::vector<std::int32_t> counted_at(int rank, int self, const Batch& batch, std::span<const std::int32_t> rows) {
  std::vector<std::int32_t> counted;
  for (const bool replicated : {true, false}) {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const BatchSequence& sequence = batch.of(rows[i]);
      if (sequence.replicated != replicated || (replicated ? sequence.home : self) != rank) continue;
      counted.push_back(static_cast<std::int32_t>(i));
    }
  }
  return counted;
}

/// Whether no row goes on anywhere else than where it is.
bool all_stay(const Batch& batch, const Domains& domains) {
  return !domains.coherent() || std::all_of(batch.sequences.begin(), batch.sequences.end(),
                                            [](const BatchSequence& s) { return s.prompt || s.replicated; });
}

std::vector<std::int32_t> choices_of(std::span<const std::int32_t> rows, const Routing& routing) {
  std::vector<std::int32_t> choices;
  for (const std::int32_t i : rows) {
    const auto first = routing.experts.begin() + std::int64_t{i} * routing.top_k;
    choices.insert(choices.end(), first, first + routing.top_k);
  }
  return choices;
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
    ChoiceRanks ranks = owners_of(batch, at.rows, routing, index_, context_.ownership, context_.domains);
    if (context_.spill != nullptr) spill(batch, routing, flight, ranks);
    flight.plan = plan_rows(batch, at.rows, routing, ranks, context_.domains);
    context_.metrics.now().dense_rows += at.x.rows;
    context_.metrics.now().moved_rows += at.x.rows - static_cast<std::int64_t>(flight.plan.stay.size());
  }
  const Timed timed(context_.metrics.phases.exchange);
  return pack(batch, flight);
}

void MoeLayer::meanwhile(const Batch& batch, InFlight& flight, Scratch& scratch) const {
  {
    const Timed timed(context_.metrics.phases.experts);
    if (spec_.shared && all_stay(batch, context_.domains)) share(batch, flight.at, flight, scratch);
  }
  context_.device.start();
  const Timed timed(context_.metrics.phases.exchange);
  (void)flight.exchange.rows();
}

void MoeLayer::arrive(const Batch& batch, InFlight& flight, Scratch& scratch, Scratch& next) const {
  {
    const Timed timed(context_.metrics.phases.exchange);
    Inbox& arrived = flight.exchange.rows();
    for (Message& message : arrived) {
      flight.freight.store(context_.device, batch, message);
    }
    if (tells_tokens()) {
      std::uint64_t tokens = 0;
      for (const Message& message : arrived) tokens += message.flags() >> kTokensShift;
      context_.spill->set_tokens(flight.micro_batch, static_cast<std::int64_t>(tokens));
    }
    flight.landed = gather(flight, scratch, next);
  }
  const Timed timed(context_.metrics.phases.experts);
  if (spec_.shared && !all_stay(batch, context_.domains)) share(batch, flight.landed, flight, scratch);
  compute(batch, flight, scratch);
  if (context_.spill != nullptr) context_.spill->done(flight.spill);
}

bool MoeLayer::partial_sums_follow(InFlight& flight) {
  const Inbox& arrived = flight.exchange.all();
  return std::any_of(arrived.begin(), arrived.end(),
                     [](const Message& m) { return (m.flags() & kPartialSumsFollow) != 0; });
}

Resident MoeLayer::land(InFlight& flight, Inbox& sums, Scratch& scratch) const {
  const Timed timed(context_.metrics.phases.exchange);
  const Resident& here = flight.landed;
  std::vector<PartialSums> all;
  for (int rank = 0; rank < context_.comm.ranks(); ++rank) {
    if (rank == context_.comm.rank()) {
      all.push_back(std::move(flight.here));
    } else if (!sums.empty()) {
      const LabelledSums came(sums[rank].section(Section::sum_labels), sums[rank].section(Bulk::partial_sums),
                              here.x.cols, here.x.type);
      all.push_back({came.labels(), came.rows});
    }
  }
  all.push_back(std::move(flight.shared));
  add_sums(all, here, index_, context_.device, scratch);
  return here;
}

bool MoeLayer::tells_tokens() const {
  return index_ == 0 && context_.spill != nullptr && context_.domains.count() > 1;
}

void MoeLayer::spill(const Batch& batch, const Routing& routing, InFlight& flight, ChoiceRanks& ranks) const {
  Spill& spill = *context_.spill;
  const auto& rows = flight.at.rows;
  const int self = context_.comm.rank();
  const int count = context_.comm.ranks();
  if (context_.domains.count() == 1) spill.set_tokens(flight.micro_batch, flight.tokens);
  if (!spill.may_pay(index_, spill.tokens(flight.micro_batch) * routing.top_k)) return;
  std::vector<std::int32_t> counts;
  const auto counted = [&](int rank) { return choices_of(counted_at(rank, self, batch, rows), routing); };
  if (batch.replicated_everywhere(context_.domains.count())) {  // every rank has all rows
    for (int rank = 0; rank < count; ++rank) {
      const auto of_rank = count_choices(counted(rank), spill.experts());
      counts.insert(counts.end(), of_rank.begin(), of_rank.end());
    }
  } else {
    counts = spill.gather(context_.comm, count_choices(counted(self), spill.experts()),
                          {"counts", index_, flight.step, context_.metrics.kind_name()});
  }
  const DispatchPlan& plan = spill.plan(index_, counts, flight.spill);
  if (!flight.spill.spilled) return;
  const auto k = static_cast<std::size_t>(routing.top_k);
  std::set<int> sources{self};
  for (const std::int32_t row : rows) {
    if (batch.of(row).replicated) sources.insert(batch.of(row).home);
  }
  for (const int source : sources) {
    const auto of_source = counted_at(source, self, batch, rows);
    const auto computes = ranks_of_choices(plan, counts, spill.experts(), source, choices_of(of_source, routing));
    for (std::size_t i = 0; i < of_source.size(); ++i) {
      std::copy_n(computes.begin() + static_cast<std::ptrdiff_t>(i * k), k,
                  ranks.computes.begin() + static_cast<std::ptrdiff_t>(of_source[i] * k));
    }
  }
}

Outbox MoeLayer::pack(const Batch& batch, const InFlight& flight) const {
  const auto& at = flight.at;
  const auto& plan = flight.plan;
  const DType type = context_.device.activation_type();
  const int self = context_.comm.rank();
  auto flags = plan.partial_sums ? kPartialSumsFollow : std::uint64_t{0};
  if (tells_tokens()) flags |= counted_at(self, self, batch, at.rows).size() << kTokensShift;

  std::vector<std::int32_t> carried;
  if (context_.domains.coherent()) carried = carried_rows(batch, at.rows);
  std::vector<std::int32_t> carried_labels;
  carried_labels.reserve(carried.size());
  for (const std::int32_t i : carried) carried_labels.push_back(at.rows[i]);

  Outbox out(plan.to.size());
  RowSums copies;
  for (int rank = 0; rank < static_cast<int>(plan.to.size()); ++rank) {
    const RowsFor& to = plan.to[rank];
    const bool takes_freight = rank != self && context_.domains.together(rank, self) && !carried.empty();
    if (rank != self) context_.metrics.now().rows_sent += static_cast<std::int64_t>(to.rows.size());
    if (takes_freight) context_.metrics.now().freight_sent += static_cast<std::int64_t>(carried.size());
    const auto gives = flight.spill.transfers.gives_to(rank);
    std::uint64_t weight_bytes = 0;
    for (const DispatchTransfer& give : gives) weight_bytes += parcel_bytes(*weights_.moe.experts[give.expert]);
    if (weight_bytes > 0) context_.spill->sent(weight_bytes);
    if (to.rows.empty() && !takes_freight && flags == 0 && gives.empty()) continue;
    const std::size_t freight_rows = takes_freight ? carried.size() : 0;
    Message& message = out[rank] = Message(sizes_of({{Section::routes, record_bytes(to)},
                                                     {Section::freight_labels, freight_rows * sizeof(std::int32_t)},
                                                     {Section::forms, gives.size() * sizeof(ExpertForm)},
                                                     {Bulk::rows, to.rows.size() * at.x.cols * size_of(type)},
                                                     {Bulk::freight, flight.freight.bytes(freight_rows, type)},
                                                     {Bulk::weights, weight_bytes}}),
                                           flags);
    if (!to.rows.empty()) {
      const Tensor rows = as_rows(message.section(Bulk::rows));
      for (std::int64_t i = 0; i < rows.rows; ++i) {
        copies.open(rows.row(i));
        copies.add(at.x.row(to.rows[static_cast<std::size_t>(i)]));
      }
      write_records(to, message.section(Section::routes));
    }
    if (takes_freight) flight.freight.pack(context_.device, carried, carried_labels, message);
    ParcelRoom room{message.section(Section::forms), message.section(Bulk::weights)};
    for (const DispatchTransfer& give : gives) {
      pack_parcel(*weights_.moe.experts[give.expert], give.expert, context_.device, room);
    }
  }
  context_.device.sum_rows(copies, at.x.cols);
  return out;
}

void MoeLayer::share(const Batch& batch, const Resident& here, InFlight& flight, Scratch& scratch) const {
  std::vector<std::int32_t> mine;
  for (std::size_t i = 0; i < here.rows.size(); ++i) {
    const BatchSequence& sequence = batch.of(here.rows[i]);
    if (sequence.replicated && sequence.home != context_.comm.rank()) continue;
    mine.push_back(static_cast<std::int32_t>(i));
    flight.shared.labels.push_back({here.rows[i], SumLabel::kShared});
  }
  const auto rows = static_cast<std::int64_t>(mine.size());
  const Tensor normed = scratch.take(rows, here.x.cols);
  const Tensor outputs = scratch.take(rows, here.x.cols);
  context_.device.gather(here.x, mine, normed);
  weights_.mlp_norm.apply(context_.device, normed, normed);
  const std::vector<ExpertRows> all{{weights_.moe.shared.get(), 0, rows}};
  context_.device.experts(normed, compute_meanwhile(flight.exchange, all, normed, outputs, context_.device), outputs);
  flight.shared.sums = weigh_shared(context_.device, weights_.moe, residual_scale_, normed, outputs, scratch);
}

void MoeLayer::compute(const Batch& batch, InFlight& flight, Scratch& scratch) const {
  const Inbox& arrived = flight.exchange.rows();
  std::vector<Route> routes;
  for (const Message& message : arrived) append_routes(message.section(Section::routes), spec_.router.top_k, routes);
  const GroupedRows groups = group_by_expert(routes, spec_.router.top_k, static_cast<int>(spec_.experts.size()));
  std::vector<WantedSums> wanted = wanted_of(arrived, routes, groups);
  const Tensor outputs = through_experts(flight, groups, scratch);
  sum_up(batch, std::move(wanted), outputs, flight, scratch);
}

std::vector<WantedSums> MoeLayer::wanted_of(const Inbox& arrived, std::span<const Route> routes,
                                            const GroupedRows& groups) const {
  const auto k = static_cast<std::size_t>(spec_.router.top_k);
  std::vector<WantedSums> wanted(arrived.size());
  std::size_t row = 0;
  for (int from = 0; from < static_cast<int>(arrived.size()); ++from) {
    for (const RowTag& tag : tags_of(arrived[from].section(Section::routes), spec_.router.top_k)) {
      const auto begin = static_cast<std::size_t>(groups.offsets[row]);
      const auto contributions =
          std::span(groups.contributions).subspan(begin, static_cast<std::size_t>(groups.offsets[row + 1]) - begin);
      const auto want = [&](int rank) { wanted[rank].add(tag.row, routes.subspan(row * k, k), contributions); };
      if (!contributions.empty() && tag.landing == RowTag::kEverywhere) {
        for (const int rank : context_.domains.ranks(context_.domains.of(from))) want(rank);
      } else if (!contributions.empty()) {
        want(tag.landing);
      }
      ++row;
    }
  }
  return wanted;
}

Tensor MoeLayer::through_experts(InFlight& flight, const GroupedRows& groups, Scratch& scratch) const {
  const auto rows = static_cast<std::int64_t>(groups.offsets.size()) - 1;
  const auto pairs = static_cast<std::int64_t>(groups.arrived.size());
  const std::int64_t hidden = flight.at.x.cols;
  const Tensor normed = scratch.take(context_.device.room_for(rows), hidden);
  const Tensor inputs = scratch.take(context_.device.room_for(pairs), hidden);
  const Tensor outputs = scratch.take(inputs.rows, hidden);

  RowSums came;
  std::int64_t next = 0;
  for (Message& message : flight.exchange.rows()) {
    const Tensor x = as_rows(message.section(Bulk::rows));
    for (std::int64_t row = 0; row < x.rows; ++row) {
      came.open(normed.row(next++));
      came.add(x.row(row));
    }
  }
  context_.device.sum_rows(came, hidden);
  weights_.mlp_norm.apply(context_.device, normed, normed);
  RowSums grouped;
  for (std::int64_t i = 0; i < pairs; ++i) {
    grouped.open(inputs.row(i));
    grouped.add(normed.row(groups.arrived[static_cast<std::size_t>(i)]));
  }
  context_.device.sum_rows(grouped, hidden);

  const auto weights = [&](std::int32_t expert) -> const ExpertWeights* {
    if (const ExpertWeights* held = weights_.moe.experts[expert].get(); held != nullptr) return held;
    const auto guest = flight.spill.experts.find(expert);
    return guest != flight.spill.experts.end() ? guest->second.get() : nullptr;
  };
  const auto take = [&](Inbox& all) {
    if (!flight.spill.spilled) return;
    context_.spill->take(
        index_, all, [&](int expert) { return spec_.experts[expert].gating; }, flight.spill);
  };
  compute_experts({groups, index_, inputs, outputs, weights, take}, flight.exchange, context_.device);
  context_.metrics.expert_rows[index_] += pairs;
  context_.metrics.now().expert_rows += pairs;
  return outputs;
}

void MoeLayer::sum_up(const Batch& batch, std::vector<WantedSums> wanted, const Tensor& outputs, InFlight& flight,
                      Scratch& scratch) const {
  std::vector<std::int32_t> told;     // indices of shared sums that the domain's other ranks lack
  std::vector<SumLabel> told_labels;  // and their labels
  for (std::size_t i = 0; i < flight.shared.labels.size(); ++i) {
    if (!batch.of(flight.shared.labels[i].row).replicated) continue;
    told.push_back(static_cast<std::int32_t>(i));
    told_labels.push_back(flight.shared.labels[i]);
  }
  RowSums sums;
  const auto add_wanted = [&](const WantedSums& want, const Tensor& to) {
    for (std::int64_t i = 0; i + 1 < std::ssize(want.offsets); ++i) {
      sums.open(to.row(i));
      for (auto j = static_cast<std::size_t>(want.offsets[i]); j < static_cast<std::size_t>(want.offsets[i + 1]); ++j) {
        sums.add(outputs.row(want.contributions[j].row), want.contributions[j].weight);
      }
    }
  };
  const std::int64_t hidden = outputs.cols;
  flight.sums.resize(wanted.size());
  for (int rank = 0; rank < context_.comm.ranks(); ++rank) {
    WantedSums& want = wanted[rank];
    const auto n = static_cast<std::int64_t>(want.labels.size());
    if (rank == context_.comm.rank()) {
      flight.here = {want.labels, scratch.take(n, hidden)};
      add_wanted(want, flight.here.sums);
      continue;
    }
    const bool tells = context_.domains.together(rank, context_.comm.rank());
    const auto shared = static_cast<std::int64_t>(tells ? told.size() : 0);
    if (n + shared == 0) continue;
    context_.metrics.now().sums_sent += n + shared;
    const DType type = context_.device.activation_type();
    const auto count = static_cast<std::uint64_t>(n + shared);
    Message& message = flight.sums[rank] =
        Message(sizes_of({{Section::sum_labels, count * sizeof(SumLabel)},
                          {Bulk::partial_sums, count * static_cast<std::uint64_t>(hidden) * size_of(type)}}));
    const LabelledSums section(message.section(Section::sum_labels), message.section(Bulk::partial_sums), hidden, type);
    if (tells) want.labels.insert(want.labels.end(), told_labels.begin(), told_labels.end());
    section.set_labels(want.labels);
    add_wanted(want, section.rows);
    for (std::int64_t i = 0; i < shared; ++i) {
      sums.open(section.rows.row(n + i));
      sums.add(flight.shared.sums.row(told[static_cast<std::size_t>(i)]));
    }
  }
  context_.device.sum_rows(sums, hidden);
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
  Inbox& arrived = flight.exchange.rows();
  for (int from = 0; from < static_cast<int>(arrived.size()); ++from) {
    if (from == context_.comm.rank()) continue;
    const Tensor x = as_rows(arrived[from].section(Bulk::rows));
    const auto tags = tags_of(arrived[from].section(Section::routes), spec_.router.top_k);
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

Tensor MoeLayer::as_rows(const DeviceBytes& section) const {
  const std::int64_t hidden = weights_.mlp_norm.weight.view.cols;
  const DType type = context_.device.activation_type();
  const auto rows = static_cast<std::int64_t>(section.size()) / (hidden * static_cast<std::int64_t>(size_of(type)));
  return {section.address(), type, rows, hidden, hidden};
}

}  // namespace coterie
