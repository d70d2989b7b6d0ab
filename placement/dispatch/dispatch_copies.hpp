// Copies of experts that pay for themselves: their weights' way costs all ranks together less than the ways of the rows
// that are then computed where they lie, whoever is overloaded.
#pragma once

#include "placement/dispatch/dispatch_loads.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// A facility location (open a copy where it saves more than it costs), greedy: the experts with most rows first; for
/// each node that sends rows of it elsewhere one copy on the rank that is then least loaded, then one on each rank
/// whose own rows pay for it.
class DispatchCopies {
 public:
  /// Whether there may be some: cheap, without false negatives.
  [[nodiscard]] bool may_pay(const DispatchLoads& loads);
  /// `loads` without copies; may_pay() of them was asked. A rank gets the weights of at most `most_arrivals`.
  void find(const DispatchLoads& loads, const DispatchOrder& order, int most_arrivals);

  /// Those that gain most first.
  [[nodiscard]] std::span<const DispatchCopy> copies() const noexcept { return copies_; }
  /// Picoseconds, of all ranks and copies together.
  [[nodiscard]] std::int64_t gain() const noexcept { return gain_; }

 private:
  struct Found {
    DispatchCopy copy;
    std::int64_t gain = 0;
  };

  void open_in(int expert, std::span<const int> ranks);
  /// One for the rows that leave the node; -1 where none pays.
  [[nodiscard]] int open_first(int expert, std::span<const int> ranks);
  void open(int expert, int rank, std::int64_t gain);
  [[nodiscard]] bool may_get(int expert, int rank) const;
  /// Of a copy, whatever it saves: at its rank, and at the one that sends the weights.
  [[nodiscard]] std::int64_t weights(int expert, int rank) const;

  const DispatchLoads* loads_ = nullptr;
  std::vector<int> candidates_;      ///< experts
  std::vector<std::int64_t> times_;  ///< (ranks): with the copies so far
  std::vector<std::int64_t> sent_;   ///< (ranks): picoseconds of weights' ways
  std::int64_t sum_ = 0;             ///< of times without copies
  std::vector<int> arrivals_;        ///< (ranks)
  int most_arrivals_ = 0;
  std::int64_t enough_ = 0;  ///< rows of a node, up to which none pays
  std::vector<Found> found_;
  std::vector<DispatchCopy> copies_;
  std::int64_t gain_ = 0;
};

}  // namespace coterie
