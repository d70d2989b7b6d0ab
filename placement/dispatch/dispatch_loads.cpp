#include "placement/dispatch/dispatch_loads.hpp"

#include "placement/splitmix.hpp"

#include <algorithm>
#include <tuple>

namespace coterie {

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
  const int experts = layer.experts;
  node_counts_.assign(static_cast<std::size_t>(layer.nodes) * experts, 0);
  totals_.assign(experts, 0);
  for (int rank = 0; rank < layer.ranks; ++rank) {
    const std::int32_t* from = counts.data() + static_cast<std::size_t>(rank) * experts;
    std::int32_t* to = node_counts_.data() + static_cast<std::size_t>(layer.node_of_rank[rank]) * experts;
    for (int e = 0; e < experts; ++e) to[e] += from[e];
  }
  for (int node = 0; node < layer.nodes; ++node) {
    const std::int32_t* from = node_counts_.data() + static_cast<std::size_t>(node) * experts;
    for (int e = 0; e < experts; ++e) totals_[e] += from[e];
  }

  items_.clear();
  items_.reserve(layer.holders);
  times_.assign(layer.ranks, 0);
  portion_.assign(layer.ranks, 0);
  ways_.assign(layer.ranks, 0);
  for (int e = 0; e < experts; ++e) {
    const int holder = layer.only_holder[e];
    if (holder >= 0) {
      const std::int64_t near = node_counts_[static_cast<std::size_t>(layer.node_of_rank[holder]) * experts + e];
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

void DispatchLoads::from_nodes(const DispatchItem& item, std::vector<std::int64_t>& rows) const {
  if (layer_->only_holder[item.expert] >= 0) {
    for (int n = 0; n < layer_->nodes; ++n) {
      rows[n] = node_counts_[static_cast<std::size_t>(n) * layer_->experts + item.expert];
    }
    return;
  }
  std::fill(rows.begin(), rows.end(), 0);
  for (int r = 0; r < layer_->ranks; ++r) rows[layer_->node_of_rank[r]] += from_rank(item, r);
}

void DispatchLoads::order(std::vector<int>& ranks) {
  signature_.assign(layer_->signature.begin(), layer_->signature.end());
  for (int rank = 0; rank < layer_->ranks; ++rank) {
    const std::int32_t* row = counts_.data() + static_cast<std::size_t>(rank) * layer_->experts;
    std::uint64_t sum = 0;
    for (int e = 0; e < layer_->experts; ++e) {
      const auto odd = static_cast<std::uint32_t>(2 * e + 1) * 0x9e3779b1U;
      sum += static_cast<std::uint64_t>(static_cast<std::uint32_t>(row[e])) * odd;
    }
    signature_[rank] ^= SplitMix(sum).next();
  }
  for (std::size_t e = 0; !cached_.empty() && e < static_cast<std::size_t>(layer_->experts); ++e) {
    const std::uint64_t odd = SplitMix(e).next() | 1U;
    for (int rank = 0; rank < layer_->ranks; ++rank) signature_[rank] += cached_[e * layer_->ranks + rank] * odd;
  }
  for (int rank = 0; rank < layer_->ranks; ++rank) ranks[rank] = rank;
  std::sort(ranks.begin(), ranks.end(), [&](int a, int b) {
    return std::tuple(layer_->node_of_rank[a], signature_[a], a) <
           std::tuple(layer_->node_of_rank[b], signature_[b], b);
  });
}

}  // namespace coterie
