// The loads of one MoE layer's ranks, and the items that they are made of: what dispatch policies start from.
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace coterie {

/// Rows of an expert that go to a rank. One for each expert with rows that all go to one rank; for the others one for
/// each rank with rows.
struct DispatchItem {
  int expert = 0, rank = 0;
  std::int64_t rows = 0;
  std::int64_t cost = 0;  ///< picoseconds, to the rank
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
  std::vector<int> ranks;          ///< by place
  std::vector<int> node_begin;     ///< (nodes + 1): in `ranks`
  std::vector<int> place_of_rank;  ///< (ranks)
};

/// A number by which what has the most rows comes first, then the lower index: numbers sort fastest.
[[nodiscard]] inline std::uint64_t hottest_first(std::int64_t rows, int index) {
  return std::uint64_t{~static_cast<std::uint32_t>(rows)} << 32 | static_cast<std::uint32_t>(index);
}
[[nodiscard]] inline int index_of(std::uint64_t hottest_first) {
  return static_cast<int>(hottest_first & 0xffffffffU);
}

/// Of 64 bits, one for each of `count`.
[[nodiscard]] inline std::size_t words_of(int count) {
  return (static_cast<std::size_t>(count) + 63) / 64;
}
inline void set_bit(std::span<std::uint64_t> words, int index) {
  words[static_cast<unsigned>(index) / 64] |= std::uint64_t{1} << static_cast<unsigned>(index) % 64;
}
/// Calls `found` with the index of each bit that is set, in order.
template <class Found>
void for_each_bit(std::span<const std::uint64_t> words, Found found) {
  for (std::size_t word = 0; word < words.size(); ++word) {
    for (std::uint64_t bits = words[word]; bits != 0; bits &= bits - 1) {
      found(static_cast<int>(word * 64) + std::countr_zero(bits));
    }
  }
}

class DispatchLoads {
 public:
  /// The arguments must outlive this object's use.
  void measure(const DispatchLayer& layer, const DispatchCosts& costs, std::span<const std::int32_t> counts,
               std::span<const std::uint8_t> cached);
  /// The order, valid until the next measure(); what follows is by its places.
  const DispatchOrder& order();
  /// Items and times when rows go to these copies, which must outlive this object's use, and else as planned.
  void spread(std::span<const DispatchCopy> copies);
  /// (places): each rank's rows of an expert.
  [[nodiscard]] const std::int32_t* sources(int expert) {
    if (gathered_[expert / kGathered] == 0) gather(expert / kGathered);
    return sources_.data() + static_cast<std::size_t>(expert) * layer_->ranks;
  }

  /// [rank * kGathered]: an expert's rows of the ranks before it.
  [[nodiscard]] const std::int32_t* rows_before(int expert) {
    const int group = expert / kGathered;
    if (summed_[group] == 0) sum(group);
    return before_.data() + (static_cast<std::size_t>(group) * layer_->ranks * kGathered + expert % kGathered);
  }
  /// Counts what planning does, in units of some 10 ns: where it ends must not depend on a clock, as all ranks plan the
  /// same.
  void spend(int units) noexcept { spent_ += units; }
  /// Whether no more should be tried. Never among few ranks, where every way may be.
  [[nodiscard]] bool exhausted(int most = kMostSpent) const noexcept {
    return spent_ > most && layer_->ranks > kFewRanks;
  }
  static constexpr int kMostSpent = 5000;  ///< with what is done anyway, under 100 us for 256 experts and 64 ranks
  static constexpr int kFewRanks = 8;      ///< one expert more or less matters among them
  static constexpr int kGathered = 16;     ///< experts at a time, whose counts of a rank share a cache line

  [[nodiscard]] const DispatchLayer& layer() const noexcept { return *layer_; }
  [[nodiscard]] const DispatchCosts& costs() const noexcept { return *costs_; }
  [[nodiscard]] const std::vector<DispatchItem>& items() const noexcept { return items_; }
  [[nodiscard]] std::span<const DispatchCopy> copies() const noexcept { return copies_; }
  /// (ranks): picoseconds.
  [[nodiscard]] const std::vector<std::int64_t>& times() const noexcept { return times_; }
  /// The same without copies.
  [[nodiscard]] const std::vector<std::int64_t>& planned_times() const noexcept { return planned_times_; }
  [[nodiscard]] std::int64_t rows(int expert) const noexcept { return totals_[expert]; }
  [[nodiscard]] std::int64_t node_rows(int node, int expert) const noexcept {
    return node_counts_[static_cast<std::size_t>(node) * layer_->experts + expert];
  }
  /// Of the nodes' rows of an expert the most.
  [[nodiscard]] std::int64_t most_node_rows(int expert) const noexcept { return most_[expert]; }
  [[nodiscard]] std::int64_t count(int rank, int expert) const noexcept {
    return counts_[static_cast<std::size_t>(rank) * layer_->experts + expert];
  }
  /// (places): the ranks to which rows of an expert go.
  [[nodiscard]] const int* destinations(int expert) {
    if (directed_[expert] == 0) direct(expert);
    return destinations_.data() + static_cast<std::ptrdiff_t>(expert) * layer_->ranks;
  }
  /// The same without copies.
  [[nodiscard]] int planned_destination(int rank, int expert) const noexcept {
    const int only = layer_->only_holder[expert];
    return only >= 0 ? only : layer_->destinations[static_cast<std::size_t>(rank) * layer_->experts + expert];
  }
  /// A bit for each rank whose rows of an expert that has copies go to one.
  [[nodiscard]] std::span<const std::uint64_t> diverted(int expert) const {
    const std::size_t words = words_of(layer_->ranks);
    return std::span(diverted_).subspan(expert * words, words);
  }
  [[nodiscard]] bool copied(int expert) const noexcept { return first_copy_[expert] >= 0; }
  /// An expert's copies, as indices in copies(); -1 ends.
  [[nodiscard]] int first_copy(int expert) const noexcept { return first_copy_[expert]; }
  [[nodiscard]] int next_copy(int copy) const noexcept { return next_copy_[copy]; }
  /// Whether its rows may go to several ranks.
  [[nodiscard]] bool shared(int expert) const noexcept { return layer_->only_holder[expert] < 0 || copied(expert); }
  /// Whether the rank has the expert's weights without any transfer.
  [[nodiscard]] bool holds(int rank, int expert) const noexcept {
    const std::size_t at = static_cast<std::size_t>(expert) * layer_->ranks + rank;
    return layer_->held[at] != 0 || (!cached_.empty() && cached_[at] != 0);
  }
  /// Calls `found` with each rank that does, in order.
  template <class Found>
  void for_each_holding(int expert, Found found) const {
    static_assert(std::endian::native == std::endian::little);
    const std::size_t first = static_cast<std::size_t>(expert) * layer_->ranks;
    const std::uint8_t* held = layer_->held.data() + first;
    const std::uint8_t* cached = cached_.empty() ? held : cached_.data() + first;
    for (int r = 0; r < layer_->ranks; r += 8) {
      const auto some = static_cast<std::size_t>(std::min(8, layer_->ranks - r));
      std::array<std::uint64_t, 2> eight{};
      std::memcpy(eight.data(), held + r, some);
      std::memcpy(eight.data() + 1, cached + r, some);
      for (std::uint64_t any = eight[0] | eight[1]; any != 0;) {
        const int byte = std::countr_zero(any) / 8;
        any &= ~(std::uint64_t{0xff} << 8 * byte);
        found(r + byte);
      }
    }
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

 private:
  void plan_items();
  [[nodiscard]] std::span<const DispatchItem> planned_items(int expert) const {
    return std::span(planned_items_)
        .subspan(planned_begin_[expert], planned_begin_[expert + 1] - planned_begin_[expert]);
  }
  /// Rows at a rank: of them `inside` from other ranks of its node, `between` from other nodes.
  void add_item(int expert, int rank, std::int64_t rows, std::int64_t inside, std::int64_t between);
  void spread(int expert);
  void gather(int group);
  void sum(int group);
  void direct(int expert);
  void direct(const DispatchCopy& copy);
  [[nodiscard]] std::uint64_t signature(int rank) const;

  const DispatchLayer* layer_ = nullptr;
  const DispatchCosts* costs_ = nullptr;
  std::span<const std::int32_t> counts_;
  std::span<const std::uint8_t> cached_;
  DispatchOrder order_;
  bool ordered_ = false;
  int spent_ = 0;
  std::vector<std::uint8_t> gathered_, summed_;  ///< (groups of experts)
  std::vector<std::int32_t> sources_;            ///< (experts, places)
  std::vector<std::int32_t> before_;             ///< (groups, ranks, kGathered)
  std::span<const DispatchCopy> copies_;
  std::vector<int> first_copy_, next_copy_;  ///< (experts), (copies): linked, -1 ends
  std::vector<std::int32_t> node_counts_;    ///< (nodes, experts)
  std::vector<std::int32_t> totals_, most_;  ///< (experts)
  std::vector<std::uint8_t> directed_;       ///< (experts): whether the next are
  std::vector<int> destinations_;            ///< (experts, places)
  std::vector<std::int32_t> shared_rows_;    ///< (holders, ways) of shared experts
  std::vector<DispatchItem> items_, planned_items_;
  std::vector<int> planned_begin_;  ///< (experts + 1): in planned_items_
  std::vector<std::int64_t> times_, planned_times_;
  std::vector<DispatchItem> portions_;    ///< (ranks), of one expert
  std::vector<std::uint64_t> diverted_;   ///< (experts, words): a bit for each rank whose rows go to a copy
  std::vector<std::uint64_t> signature_;  ///< (ranks), 0: not asked for yet
};

}  // namespace coterie
