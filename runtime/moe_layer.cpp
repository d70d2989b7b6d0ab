#include "runtime/moe_layer.hpp"

#include <cstring>

namespace coterie {

void MoeLayer::forward(const Tensor& x, std::int64_t step, const RoutingObserver& observe) {
  context_.scratch.reset();
  std::vector<RowsFor> rows;
  {
    const Timed timed(context_.metrics.phases.router);
    const Tensor normed = context_.scratch.take(x.rows, x.cols);
    context_.device.rms_norm(x, weights_.moe_norm.view, rms_epsilon_, normed);
    const Routing routing = context_.device.route(normed, *weights_.router, spec_.router);
    if (observe) observe(index_, routing);
    rows = rows_by_rank(routing, context_.ownership.destinations(index_), context_.comm.ranks());
  }
  const Inbox arrived = [&] {
    const Timed timed(context_.metrics.phases.exchange);
    return context_.comm.exchange(pack(x, rows), {"dispatch", index_, step});
  }();
  Outbox partial = compute(arrived);
  const Timed timed(context_.metrics.phases.exchange);
  add(context_.comm.exchange(std::move(partial), {"combine", index_, step}), rows, x);
}

Outbox MoeLayer::pack(const Tensor& x, const std::vector<RowsFor>& rows) const {
  const std::size_t row_bytes = static_cast<std::size_t>(x.cols) * size_of(x.type);
  Outbox out(rows.size());
  for (std::size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].rows.empty()) continue;
    SectionSizes sizes{};
    sizes[static_cast<std::size_t>(Section::rows)] = rows[r].rows.size() * row_bytes;
    sizes[static_cast<std::size_t>(Section::routes)] = rows[r].routes.size() * sizeof(Route);
    out[r] = Message(sizes);
    context_.device.gather(x, rows[r].rows, as_rows(out[r].section(Section::rows)));
    const auto routes = out[r].section(Section::routes);
    std::memcpy(routes.data(), rows[r].routes.data(), routes.size());
  }
  return out;
}

Outbox MoeLayer::compute(const Inbox& arrived) {
  const Timed timed(context_.metrics.phases.experts);
  const GroupedRows groups =
      group_by_expert(routes_of(arrived), spec_.router.top_k, static_cast<int>(spec_.experts.size()));
  const auto rows = static_cast<std::int64_t>(groups.offsets.size()) - 1;
  const auto pairs = static_cast<std::int64_t>(groups.arrived.size());
  const std::int64_t hidden = weights_.moe_norm.view.cols;
  const Tensor normed = context_.scratch.take(rows, hidden);
  const Tensor inputs = context_.scratch.take(pairs, hidden);
  const Tensor outputs = context_.scratch.take(pairs, hidden);

  std::int64_t first = 0;
  for (const Message& message : arrived) {
    const Tensor from = as_rows(message.section(Section::rows));
    context_.device.rms_norm(from, weights_.moe_norm.view, rms_epsilon_, normed.row_range(first, from.rows));
    first += from.rows;
  }
  context_.device.gather(normed, groups.arrived, inputs);
  context_.device.experts(inputs, calls(groups), outputs);
  context_.metrics.expert_rows[index_] += pairs;

  Outbox out(arrived.size());
  first = 0;
  for (std::size_t r = 0; r < arrived.size(); ++r) {
    const auto from = arrived[r].section(Section::rows);
    if (from.empty()) continue;
    SectionSizes sizes{};
    sizes[static_cast<std::size_t>(Section::partial_sums)] = from.size();
    out[r] = Message(sizes);
    const Tensor sums = as_rows(out[r].section(Section::partial_sums));
    context_.device.combine(outputs, std::span(groups.offsets).subspan(first, sums.rows + 1), groups.contributions,
                            sums);
    first += sums.rows;
  }
  return out;
}

std::vector<Route> MoeLayer::routes_of(const Inbox& arrived) const {
  std::vector<Route> routes;
  for (const Message& message : arrived) {
    const auto section = message.section(Section::routes);
    const auto rows = as_rows(message.section(Section::rows)).rows;
    if (section.size() != static_cast<std::size_t>(rows * spec_.router.top_k) * sizeof(Route)) {
      throw CommError("layer " + std::to_string(index_) + ": " + std::to_string(rows) + " rows arrived with " +
                      std::to_string(section.size()) + " bytes of routes");
    }
    const std::size_t before = routes.size();
    routes.resize(before + section.size() / sizeof(Route));
    if (!section.empty()) std::memcpy(&routes[before], section.data(), section.size());
  }
  return routes;
}

std::vector<ExpertRows> MoeLayer::calls(const GroupedRows& groups) const {
  std::vector<ExpertRows> out;
  for (std::size_t g = 0; g < groups.experts.size(); ++g) {
    const ExpertWeights& expert = weights_.experts[groups.experts[g]];
    if (!expert.down) {
      throw CommError("layer " + std::to_string(index_) + ": a row arrived for expert " +
                      std::to_string(groups.experts[g]) + ", which this rank doesn't hold");
    }
    out.push_back({&expert, groups.first[g], groups.first[g + 1] - groups.first[g]});
  }
  return out;
}

void MoeLayer::add(const Inbox& sums, const std::vector<RowsFor>& rows, const Tensor& x) const {
  for (std::size_t r = 0; r < sums.size(); ++r) {
    const Tensor partial = as_rows(sums[r].section(Section::partial_sums));
    if (partial.rows != static_cast<std::int64_t>(rows[r].rows.size())) {
      throw CommError("layer " + std::to_string(index_) + ": rank " + std::to_string(r) + " returned " +
                      std::to_string(partial.rows) + " partial sums, expected " + std::to_string(rows[r].rows.size()));
    }
    if (partial.rows == 0) continue;
    std::vector<std::int64_t> offsets(x.rows + 1, 0);
    std::vector<Contribution> contributions;
    for (std::size_t i = 0; i < rows[r].rows.size(); ++i) {
      offsets[rows[r].rows[i] + 1] = 1;
      contributions.push_back({static_cast<std::int32_t>(i), 1.0F});
    }
    for (std::int64_t t = 0; t < x.rows; ++t) offsets[t + 1] += offsets[t];
    context_.device.combine(partial, offsets, contributions, x, true);
  }
}

Tensor MoeLayer::as_rows(std::span<const std::byte> section) const {
  const std::int64_t hidden = weights_.moe_norm.view.cols;
  const DType type = context_.device.activation_type();
  const auto rows = static_cast<std::int64_t>(section.size()) / (hidden * static_cast<std::int64_t>(size_of(type)));
  return {const_cast<std::byte*>(section.data()), type, rows, hidden, hidden};
}

}  // namespace coterie
