#include "placement/dispatch/dispatch_loads.hpp"

#include "placement/splitmix.hpp"

#include <algorithm>
#include <utility>

namespace coterie {

std::size_t most_copies(const DispatchLayer& layer) {
  return static_cast<std::size_t>(std::max(layer.experts, 4 * layer.ranks) + layer.ranks);
}

void DispatchLoads::add_item(int expert, int rank, std::int64_t rows, std::int64_t ways) {
  if (rows == 0) return;
  items_.push_back({expert, rank, rows});
  times_[rank] += costs_->expert + rows * costs_->row + ways;
}

void DispatchLoads::measure(const DispatchLayer& layer, const DispatchCosts& costs,
                            std::span<const std::int32_t> counts, std::span<const std::uint8_t> cached) {
  layer_ = &layer;
  costs_ = &costs;
  counts_ = counts;
  cached_ = cached;
  const auto experts = static_cast<std::size_t>(layer.experts);
  node_counts_.assign(layer.nodes * experts, 0);
  totals_.assign(experts, 0);
  most_.assign(experts, 0);
  for (int rank = 0; rank < layer.ranks; ++rank) {
    const std::int32_t* from = counts.data() + rank * experts;
    std::int32_t* to = node_counts_.data() + layer.node_of_rank[rank] * experts;
    for (std::size_t e = 0; e < experts; ++e) to[e] += from[e];
  }
  for (int node = 0; node < layer.nodes; ++node) {
    const std::int32_t* from = node_counts_.data() + node * experts;
    for (std::size_t e = 0; e < experts; ++e) {
      totals_[e] += from[e];
      most_[e] = std::max(most_[e], from[e]);
    }
  }
  copied_.assign(experts, 0);
  destinations_.resize(experts * layer.ranks);
  copies_ = {};
  items_.clear();
  spread({});
}

void DispatchLoads::spread(std::span<const DispatchCopy> copies) {
  const DispatchLayer& layer = *layer_;
  const DispatchCosts& costs = *costs_;
  if (copies.empty() && copies_.empty() && !items_.empty()) return;
  for (const DispatchCopy& copy : copies_) copied_[copy.expert] = 0;
  copies_ = copies;
  items_.clear();
  items_.reserve(layer.holders + most_copies(layer));
  times_.assign(layer.ranks, 0);
  portion_.assign(layer.ranks, 0);
  ways_.assign(layer.ranks, 0);
  for (const DispatchCopy& copy : copies) {
    int* to = destinations_.data() + static_cast<std::ptrdiff_t>(copy.expert) * layer.ranks;
    for (int r = 0; r < layer.ranks; ++r) {
      if (copied_[copy.expert] == 0) to[r] = planned_destination(r, copy.expert);
      if (to[r] != r && same_node(r, copy.rank) && !same_node(r, to[r])) to[r] = copy.rank;
    }
    to[copy.rank] = copy.rank;
    copied_[copy.expert] = 1;
    if (copy.weights_from < 0) continue;
    for (const int rank : {copy.rank, copy.weights_from}) times_[rank] += weights_way(copy.weights_from, copy.rank);
  }
  for (int e = 0; e < layer.experts; ++e) {
    const int holder = layer.only_holder[e];
    if (!shared(e)) {
      const std::int64_t near = node_rows(layer.node_of_rank[holder], e);
      add_item(e, holder, totals_[e],
               (totals_[e] - near) * costs.row_between + (near - count(holder, e)) * costs.row_inside);
      continue;
    }
    for (int rank = 0; rank < layer.ranks; ++rank) {
      const int to = destination(rank, e);
      portion_[to] += count(rank, e);
      ways_[to] += count(rank, e) * row_way(rank, to);
    }
    for (int rank = 0; rank < layer.ranks; ++rank) {
      add_item(e, rank, portion_[rank], ways_[rank]);
      portion_[rank] = ways_[rank] = 0;
    }
  }
}

bool DispatchLoads::any_cached(int expert) const noexcept {
  if (cached_.empty()) return false;
  const std::uint8_t* row = cached_.data() + static_cast<std::size_t>(expert) * layer_->ranks;
  std::uint8_t any = 0;
  for (int r = 0; r < layer_->ranks; ++r) any |= row[r];
  return any != 0;
}

std::uint64_t DispatchLoads::signature(int rank) const {
  const std::int32_t* row = counts_.data() + static_cast<std::size_t>(rank) * layer_->experts;
  std::uint64_t sum = 0;
  for (int e = 0; e < layer_->experts; ++e) {
    const auto odd = static_cast<std::uint32_t>(2 * e + 1) * 0x9e3779b1U;
    sum += static_cast<std::uint64_t>(static_cast<std::uint32_t>(row[e])) * odd;
  }
  for (std::size_t e = 0; !cached_.empty() && e < static_cast<std::size_t>(layer_->experts); ++e) {
    if (cached_[e * layer_->ranks + rank] != 0) sum += SplitMix(e).next();
  }
  return layer_->signature[rank] ^ SplitMix(sum).next();
}

void DispatchLoads::order(DispatchOrder& order) {
  const auto ranks = static_cast<std::size_t>(layer_->ranks);
  order.ranks.resize(ranks);
  order.node_begin.assign(layer_->nodes + 1, 0);
  for (const int node : layer_->node_of_rank) ++order.node_begin[node];
  for (int n = 0, sum = 0; n <= layer_->nodes; ++n) sum += std::exchange(order.node_begin[n], sum);
  signature_.assign(ranks, 0);
  for (int rank = 0; rank < layer_->ranks; ++rank) order.ranks[order.node_begin[layer_->node_of_rank[rank]]++] = rank;
  for (int n = layer_->nodes; n > 0; --n) order.node_begin[n] = order.node_begin[n - 1];
  order.node_begin[0] = 0;
  const auto of = [&](int rank) {
    if (signature_[rank] == 0) signature_[rank] = signature(rank) | 1U;
    return signature_[rank];
  };
  for (int n = 0; n < layer_->nodes; ++n) {
    std::sort(order.ranks.begin() + order.node_begin[n], order.ranks.begin() + order.node_begin[n + 1],
              [&](int a, int b) {
                if (times_[a] != times_[b]) return times_[a] < times_[b];
                return of(a) != of(b) ? of(a) < of(b) : a < b;
              });
  }
}

}  // namespace coterie
