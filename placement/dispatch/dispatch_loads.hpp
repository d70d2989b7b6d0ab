// The loads of one MoE layer's ranks, and the items that they are made of: what dispatch policies start from.
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// Rows of an expert that go to a rank. One for each expert with rows that all go to one rank; for the others one for
/// each rank with rows.
struct DispatchItem {
  int expert = 0, rank = 0;
  std::int64_t rows = 0;
};

/// A rank that computes its own rows of an expert, and its node's that would leave the node, though the placement sends
/// them elsewhere.
struct DispatchCopy {
  int expert = 0, rank = 0;
  int weights_from = -1;  ///< -1: it has them
};

/// How many are made: some per rank, as more would be planned too slowly, and cost memory.
[[nodiscard]] std::size_t most_copies(const DispatchLayer& layer);

/// Ranks in an order that their numbers don't decide: node by node, those of a node by their times, then by what they
/// hold and send.
struct DispatchOrder {
  std::vector<int> ranks;
  std::vector<int> node_begin;  ///< (nodes + 1): in `ranks`
};

class DispatchLoads {
 public:
  /// The arguments must outlive this object's use.
  void measure(const DispatchLayer& layer, const DispatchCosts& costs, std::span<const std::int32_t> counts,
               std::span<const std::uint8_t> cached);
  /// Items and times when rows go to these copies, which must outlive this object's use, and else as planned.
  void spread(std::span<const DispatchCopy> copies);

  [[nodiscard]] const DispatchLayer& layer() const noexcept { return *layer_; }
  [[nodiscard]] const DispatchCosts& costs() const noexcept { return *costs_; }
  [[nodiscard]] const std::vector<DispatchItem>& items() const noexcept { return items_; }
  [[nodiscard]] std::span<const DispatchCopy> copies() const noexcept { return copies_; }
  /// (ranks): picoseconds.
  [[nodiscard]] const std::vector<std::int64_t>& times() const noexcept { return times_; }
  [[nodiscard]] std::int64_t rows(int expert) const noexcept { return totals_[expert]; }
  [[nodiscard]] std::int64_t node_rows(int node, int expert) const noexcept {
    return node_counts_[static_cast<std::size_t>(node) * layer_->experts + expert];
  }
  /// Of the nodes' rows of an expert the most.
  [[nodiscard]] std::int64_t most_node_rows(int expert) const noexcept { return most_[expert]; }
  [[nodiscard]] std::int64_t count(int rank, int expert) const noexcept {
    return counts_[static_cast<std::size_t>(rank) * layer_->experts + expert];
  }
  [[nodiscard]] int planned_destination(int rank, int expert) const noexcept {
    return layer_->destinations[static_cast<std::size_t>(rank) * layer_->experts + expert];
  }
  [[nodiscard]] int destination(int rank, int expert) const noexcept {
    return copied_[expert] != 0 ? destinations_[static_cast<std::size_t>(expert) * layer_->ranks + rank]
                                : planned_destination(rank, expert);
  }
  /// Whether its rows may go to several ranks.
  [[nodiscard]] bool shared(int expert) const noexcept {
    return layer_->only_holder[expert] < 0 || copied_[expert] != 0;
  }
  /// Whether the rank has the expert's weights without a transfer, but for that of a copy.
  [[nodiscard]] bool has(int rank, int expert) const noexcept {
    return holds(rank, expert) || (copied_[expert] != 0 && destination(rank, expert) == rank);
  }
  /// Whether it has them without any transfer.
  [[nodiscard]] bool holds(int rank, int expert) const noexcept {
    const std::size_t at = static_cast<std::size_t>(expert) * layer_->ranks + rank;
    return layer_->held[at] != 0 || (!cached_.empty() && cached_[at] != 0);
  }
  [[nodiscard]] bool any_cached() const noexcept { return !cached_.empty(); }
  [[nodiscard]] bool any_cached(int expert) const noexcept;
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
    return !shared(item.expert) || destination(rank, item.expert) == item.rank ? count(rank, item.expert) : 0;
  }
  void order(DispatchOrder& order);

 private:
  void add_item(int expert, int rank, std::int64_t rows, std::int64_t ways);
  [[nodiscard]] std::uint64_t signature(int rank) const;

  const DispatchLayer* layer_ = nullptr;
  const DispatchCosts* costs_ = nullptr;
  std::span<const std::int32_t> counts_;
  std::span<const std::uint8_t> cached_;
  std::span<const DispatchCopy> copies_;
  std::vector<std::int32_t> node_counts_;    ///< (nodes, experts)
  std::vector<std::int32_t> totals_, most_;  ///< (experts)
  std::vector<std::uint8_t> copied_;         ///< (experts): whether there is a copy
  std::vector<int> destinations_;            ///< (experts, ranks): of those
  std::vector<DispatchItem> items_;
  std::vector<std::int64_t> times_;
  std::vector<std::int64_t> portion_, ways_;  ///< (ranks), of one expert
  std::vector<std::uint64_t> signature_;      ///< (ranks), 0: not asked for yet
};

}  // namespace coterie
