// The policy least-loaded: overloaded ranks give rows, and where needed weights, to others until the slowest rank is as
// fast as it can be.
#pragma once

#include "placement/dispatch/dispatch_loads.hpp"

#include <cstdint>
#include <vector>

namespace coterie {

/// Rows of an item that another rank computes.
struct DispatchChunk {
  int item = 0;
  int rank = 0;
  std::int64_t own = 0;  ///< rows that lie on the rank already
  int first_draw = 0;    ///< the others, in draws()
  int draws = 0;
  int weights_from = -1;  ///< the rank that sends the weights, -1 where none are needed
};

/// Rows of an item that come from a node without those of the item's rank, or (node -1) from the item's rank.
struct DispatchDraw {
  int node = 0;
  std::int64_t rows = 0;
};

/// Bisection on the time of the slowest rank. For a target each rank above it sheds its hottest experts first (among
/// few ranks also: first the one that is just large enough), to the rank that needs no weights, else one of the same
/// node that can take all of the excess, else one elsewhere that can, else the one with most room; the rows that lie
/// there come first, then those of its node. A chunk that saves its owner less than it costs is not given; a helper
/// passes nothing of its own on.
class LeastLoaded {
 public:
  /// Whether something is spilled, and if not, why not. O(log(before / after) * chunks * ranks).
  [[nodiscard]] DispatchPlan::Stayed solve(DispatchLoads& loads, int most_arrivals);
  void clear();

  /// Of the slowest rank, at most `loads`' own.
  [[nodiscard]] std::int64_t time() const noexcept { return reached_; }

  /// Empty where nothing is spilled.
  [[nodiscard]] const std::vector<DispatchChunk>& chunks() const noexcept { return best_chunks_; }
  [[nodiscard]] const std::vector<DispatchDraw>& draws() const noexcept { return best_draws_; }

 private:
  struct Offer;

  void prepare();
  /// Whether all ranks come down to `target`; the time of the slowest is then `reached_`.
  [[nodiscard]] bool reach(std::int64_t target);
  /// Of items, the hottest first: the last that would bring their rank down by `excess` alone, else the first.
  [[nodiscard]] std::vector<int>::const_iterator tightest(std::vector<int>::const_iterator first,
                                                          std::vector<int>::const_iterator last,
                                                          std::int64_t excess) const;
  void shed(int item, std::int64_t target);
  /// What the rank may still take, but for the way of weights.
  void set_room(int rank, std::int64_t target);
  [[nodiscard]] int best_owner(const DispatchItem& item, std::int64_t target) const;
  [[nodiscard]] int best_helper(const DispatchItem& item, std::int64_t target);
  [[nodiscard]] Offer offer(const DispatchItem& item, int helper, std::int64_t target) const;
  void take(int item, int helper, const Offer& offer);
  void draw(int node, std::int64_t rows);
  [[nodiscard]] int sender(const DispatchItem& item, int helper) const;
  /// Whether several ranks hold it.
  [[nodiscard]] bool shared(int expert) const;
  [[nodiscard]] bool has(int rank, int expert) const;
  [[nodiscard]] std::size_t cell(int rank, int expert) const;

  DispatchLoads* loads_ = nullptr;
  int most_arrivals_ = 0;
  bool tight_first_ = false;               ///< the expert that is just large enough is shed before the hottest
  std::vector<int> order_;                 ///< (ranks): those of a node in an order that their numbers don't decide
  std::vector<int> place_;                 ///< (ranks): of each rank in order_
  std::vector<int> node_begin_;            ///< (nodes + 1): in order_
  std::vector<std::int64_t> room_;         ///< (ranks), as order_: picoseconds up to the target
  std::vector<std::uint8_t> sorted_;       ///< (ranks): whether its items are
  std::vector<int> by_time_;               ///< (ranks): the slowest first
  std::vector<int> item_of_rank_, items_;  ///< (ranks + 1), (items): the items of each rank, the hottest first
  std::vector<std::int64_t> times_;        ///< (ranks)
  std::vector<std::int64_t> left_;         ///< (items): rows that stay
  std::vector<int> arrivals_;              ///< (ranks)
  std::vector<std::int64_t> pool_;         ///< (nodes): rows of the item in hand, without its rank's own
  std::int64_t owners_own_ = 0;            ///< those
  std::vector<std::uint32_t> arrived_, present_;  ///< (experts, ranks): pass_ where weights came, where rows are
  std::uint32_t pass_ = 0;
  std::vector<std::uint64_t> helped_;  ///< (ranks): sheddings_ where a rank took rows of the item in hand
  std::uint64_t sheddings_ = 0;
  std::int64_t reached_ = 0;
  std::vector<DispatchChunk> chunks_, best_chunks_;  ///< of the pass, of the best one
  std::vector<DispatchDraw> draws_, best_draws_;
};

}  // namespace coterie
