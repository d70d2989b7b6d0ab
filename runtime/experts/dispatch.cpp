#include "runtime/experts/dispatch.hpp"

#include "kernels/expert_order.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

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

ChoiceRanks owners_of(const Batch& batch, std::span<const std::int32_t> rows, const Routing& routing, int layer,
                      const Ownership& ownership, const Domains& domains) {
  const std::size_t k = static_cast<std::size_t>(routing.top_k);
  ChoiceRanks ranks;
  ranks.owner.assign(rows.size() * k, -1);
  ranks.computes = ranks.owner;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const BatchSequence& sequence = batch.of(rows[i]);
    const auto of_home = ownership.destinations(layer, sequence.home);
    // Ranks that hold copies of a row must agree on who computes what: they all take home's view of the replicas.
    const auto from_here = sequence.replicated ? of_home : ownership.destinations(layer, domains.self());
    for (std::size_t c = i * k; c < (i + 1) * k && routing.experts[c] != Route::kNone; ++c) {
      ranks.computes[c] = from_here[routing.experts[c]];
      ranks.owner[c] = k == 1 ? ranks.computes[c] : of_home[routing.experts[c]];
    }
  }
  return ranks;
}

RowPlan plan_rows(const Batch& batch, std::span<const std::int32_t> rows, const Routing& routing,
                  const ChoiceRanks& ranks, const Domains& domains) {
  RowPlan plan;
  plan.to.resize(static_cast<std::size_t>(domains.ranks_of_job()));
  const int self = domains.self();
  const int k = routing.top_k;
  std::vector<Share> shares;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto index = static_cast<std::int32_t>(i);
    const BatchSequence& sequence = batch.of(rows[i]);
    const std::span owner = std::span(ranks.owner).subspan(i * k, k);
    const std::span computes = std::span(ranks.computes).subspan(i * k, k);
    const int choices = static_cast<int>(std::find(owner.begin(), owner.end(), -1) - owner.begin());
    const auto weight = [&](int j) { return routing.weights[i * k + j]; };

    shares.clear();
    for (int j = 0; j < choices; ++j) {
      const auto found =
          std::find_if(shares.begin(), shares.end(), [&](const Share& s) { return s.rank == computes[j]; });
      found == shares.end() ? shares.push_back({computes[j], weight(j)}) : void(found->weight += weight(j));
    }
    plan.partial_sums = plan.partial_sums || sequence.replicated;  // of a shared expert, if of no other
    const int landing = sequence.replicated ? RowTag::kEverywhere
                        : sequence.prompt   ? sequence.home
                                            : landing_rank(shares, domains, sequence.home);
    for (int j = 0; j < choices; ++j) {
      const int rank = computes[j];
      const bool sends =
          !sequence.replicated || rank == self || (self == sequence.home && !domains.together(rank, self));
      Route route{routing.experts[i * k + j], weight(j), static_cast<std::int16_t>(owner[j])};
      for (int other = 0; other < choices; ++other) {
        if (owner[other] == owner[j] && computes[other] != rank) route.place = static_cast<std::int16_t>(j);
      }
      if (sends) add(plan.to[rank], index, {rows[i], landing}, route, k);
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

std::vector<int> joined_ranks(int layer, const Ownership& ownership, const Domains& domains) {
  const int ranks = ownership.ranks();
  std::vector<std::vector<int>> next(static_cast<std::size_t>(ranks));
  for (int a = 0; a < ranks; ++a) {
    for (const int b : ownership.destinations(layer, a)) {
      next[a].push_back(b);
      next[b].push_back(a);
    }
    for (const int b : domains.ranks(domains.of(a))) next[a].push_back(b);
  }
  std::vector<char> seen(static_cast<std::size_t>(ranks), 0);
  std::vector<int> found{domains.self()};
  seen[domains.self()] = 1;
  for (std::size_t i = 0; i < found.size(); ++i) {
    for (const int rank : next[found[i]]) {
      if (!std::exchange(seen[rank], 1)) found.push_back(rank);
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

GroupedRows group_by_expert(std::span<const Route> routes, int top_k, int experts) {
  std::vector<std::int32_t> chosen;
  for (const Route& route : routes) chosen.push_back(route.expert);
  const ExpertOrder order = order_by_expert(chosen, experts);
  GroupedRows out;
  for (int e = 0; e < experts; ++e) {
    if (order.first[e + 1] == order.first[e]) continue;
    out.experts.push_back(e);
    out.first.push_back(order.first[e]);
  }
  const std::int64_t pairs = order.first[experts];
  out.first.push_back(pairs);
  out.arrived.resize(pairs);
  out.contributions.reserve(pairs);
  out.offsets.push_back(0);
  for (std::size_t i = 0; i < routes.size(); ++i) {
    if (const std::int32_t at = order.place[i]; at >= 0) {
      out.arrived[at] = static_cast<std::int32_t>(i / top_k);
      out.contributions.push_back({at, routes[i].weight});
    }
    if ((i + 1) % top_k == 0) out.offsets.push_back(static_cast<std::int64_t>(out.contributions.size()));
  }
  return out;
}

}  // namespace coterie
