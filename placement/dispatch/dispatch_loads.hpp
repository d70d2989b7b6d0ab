// The loads of one MoE layer's ranks before anything is spilled: what dispatch policies start from.
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// Rows of an expert that the placement gives to a rank. One for each expert with rows that one rank holds; for the
/// others one for each holder with rows.
struct DispatchItem {
  int expert = 0, rank = 0;
  std::int64_t rows = 0;
};

class DispatchLoads {
 public:
  /// The arguments must outlive this object's use.
  void measure(const DispatchLayer& layer, const DispatchCosts& costs, std::span<const std::int32_t> counts,
               std::span<const std::uint8_t> cached);

  [[nodiscard]] const DispatchLayer& layer() const noexcept { return *layer_; }
  [[nodiscard]] const DispatchCosts& costs() const noexcept { return *costs_; }
  [[nodiscard]] const std::vector<DispatchItem>& items() const noexcept { return items_; }
  /// (ranks): picoseconds.
  [[nodiscard]] const std::vector<std::int64_t>& times() const noexcept { return times_; }
  [[nodiscard]] std::int64_t rows(int expert) const noexcept { return totals_[expert]; }
  [[nodiscard]] std::int64_t count(int rank, int expert) const noexcept {
    return counts_[static_cast<std::size_t>(rank) * layer_->experts + expert];
  }
  [[nodiscard]] int destination(int rank, int expert) const noexcept {
    return layer_->destinations[static_cast<std::size_t>(rank) * layer_->experts + expert];
  }
  /// Whether the rank has the expert's weights without a transfer.
  [[nodiscard]] bool has(int rank, int expert) const noexcept {
    const std::size_t at = static_cast<std::size_t>(expert) * layer_->ranks + rank;
    return layer_->held[at] != 0 || (!cached_.empty() && cached_[at] != 0);
  }
  [[nodiscard]] bool any_cached() const noexcept { return !cached_.empty(); }
  [[nodiscard]] bool same_node(int a, int b) const noexcept {
    return layer_->node_of_rank[a] == layer_->node_of_rank[b];
  }
  /// Of a row of `from` that `to` computes.
  [[nodiscard]] std::int64_t row_way(int from, int to) const noexcept {
    return from == to ? 0 : same_node(from, to) ? costs_->row_inside : costs_->row_between;
  }
  [[nodiscard]] std::int64_t weights_way(int from, int to) const noexcept {
    return same_node(from, to) ? costs_->weights_inside : costs_->weights_between;
  }
  /// `item`'s rows that come from `rank`.
  [[nodiscard]] std::int64_t from_rank(const DispatchItem& item, int rank) const noexcept {
    const bool all = layer_->only_holder[item.expert] >= 0;
    return all || destination(rank, item.expert) == item.rank ? count(rank, item.expert) : 0;
  }
  /// (nodes): `item`'s rows that come from each node.
  void from_nodes(const DispatchItem& item, std::vector<std::int64_t>& rows) const;
  /// (ranks): ranks node by node, those of a node by what they hold and send, whatever their numbers.
  void order(std::vector<int>& ranks);

 private:
  void add_item(int expert, int rank, std::int64_t rows, std::int64_t ways);

  const DispatchLayer* layer_ = nullptr;
  const DispatchCosts* costs_ = nullptr;
  std::span<const std::int32_t> counts_;
  std::span<const std::uint8_t> cached_;
  std::vector<std::int32_t> node_counts_;  ///< (nodes, experts)
  std::vector<std::int32_t> totals_;       ///< (experts)
  std::vector<DispatchItem> items_;
  std::vector<std::int64_t> times_;
  std::vector<std::int64_t> portion_, ways_;  ///< (ranks), of one expert
  std::vector<std::uint64_t> signature_;      ///< (ranks)
};

}  // namespace coterie
