#include "runtime/dispatch.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace coterie {

namespace {

/// Adds a choice of the row with this index to what a rank gets.
void add(RowsFor& to, std::int32_t index, const RowTag& tag, const Route& route, int top_k) {
  if (to.rows.empty() || to.rows.back() != index) {
    to.rows.push_back(index);
    to.tags.push_back(tag);
    to.routes.resize(to.routes.size() + static_cast<std::size_t>(top_k));
  }
  if (route.expert == Route::kNone) return;
  *std::find_if(to.routes.end() - top_k, to.routes.end(), [](const Route& r) { return r.expert == Route::kNone; }) =
      route;
}

}  // namespace

int landing_rank(std::span<const Share> shares, const Domains& domains, int home) {
  const Share* best = nullptr;
  for (const Share& share : shares) {
    if (!domains.together(share.rank, home)) continue;
    if (best == nullptr || share.weight > best->weight || (share.weight == best->weight && share.rank < best->rank)) {
      best = &share;
    }
  }
  return best == nullptr ? home : best->rank;
}

RowPlan plan_rows(const Batch& batch, std::span<const std::int32_t> rows, const Routing& routing, int layer,
                  const Ownership& ownership, const Domains& domains) {
  RowPlan plan;
  plan.to.resize(static_cast<std::size_t>(ownership.ranks()));
  const int self = domains.self();
  const int k = routing.top_k;
  std::vector<Share> shares;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto index = static_cast<std::int32_t>(i);
    const BatchSequence& sequence = batch.of(rows[i]);
    // Ranks that hold copies of a row must agree on who computes what: they all take home's view of the replicas.
    const auto destinations = ownership.destinations(layer, sequence.replicated ? sequence.home : self);
    const auto routes = [&](int j) { return Route{routing.experts[i * k + j], routing.weights[i * k + j]}; };

    shares.clear();
    for (int j = 0; j < k && routes(j).expert != Route::kNone; ++j) {
      const int rank = destinations[routes(j).expert];
      const auto found = std::find_if(shares.begin(), shares.end(), [&](const Share& s) { return s.rank == rank; });
      found == shares.end() ? shares.push_back({rank, routes(j).weight}) : void(found->weight += routes(j).weight);
    }
    plan.partial_sums = plan.partial_sums || sequence.replicated;  // of a shared expert, if of no other
    const int landing = sequence.replicated ? RowTag::kEverywhere
                        : sequence.prompt   ? sequence.home
                                            : landing_rank(shares, domains, sequence.home);
    for (int j = 0; j < k && routes(j).expert != Route::kNone; ++j) {
      const int rank = destinations[routes(j).expert];
      const bool sends =
          !sequence.replicated || rank == self || (self == sequence.home && !domains.together(rank, self));
      if (sends) add(plan.to[rank], index, {rows[i], landing}, routes(j), k);
      plan.partial_sums = plan.partial_sums || rank != landing;
    }
    if (sequence.replicated || landing == self) {
      plan.stay.push_back(index);
    } else {
      add(plan.to[landing], index, {rows[i], landing}, {}, k);
    }
  }
  return plan;
}

GroupedRows group_by_expert(std::span<const Route> routes, int top_k, int experts) {
  std::vector<std::int64_t> begin(experts + 1, 0);  // counting sort by expert
  for (const Route& route : routes) {
    if (route.expert == Route::kNone) continue;
    if (route.expert < 0 || route.expert >= experts) {
      throw std::invalid_argument("a row arrived for expert " + std::to_string(route.expert) + " of " +
                                  std::to_string(experts));
    }
    ++begin[route.expert + 1];
  }
  GroupedRows out;
  for (int e = 0; e < experts; ++e) {
    if (begin[e + 1] > 0) {
      out.experts.push_back(e);
      out.first.push_back(begin[e]);
    }
    begin[e + 1] += begin[e];
  }
  const std::int64_t pairs = begin[experts];
  out.first.push_back(pairs);
  out.arrived.resize(pairs);
  out.contributions.reserve(pairs);
  out.offsets.push_back(0);
  for (std::size_t i = 0; i < routes.size(); ++i) {
    if (routes[i].expert != Route::kNone) {
      const auto at = static_cast<std::int32_t>(begin[routes[i].expert]++);
      out.arrived[at] = static_cast<std::int32_t>(i / top_k);
      out.contributions.push_back({at, routes[i].weight});
    }
    if ((i + 1) % top_k == 0) out.offsets.push_back(static_cast<std::int64_t>(out.contributions.size()));
  }
  return out;
}

}  // namespace coterie
