// Copies of experts that pay for themselves: their weights' way costs all ranks together less than the ways of the rows
// that are then computed where they lie, whoever is overloaded.
#pragma once

#include "placement/dispatch/dispatch_loads.hpp"

#include <cstdint>
#include <span>
#include <utility>
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
  void find(DispatchLoads& loads, int most_arrivals);
  /// Puts those that gain most first.
  void sort();

  [[nodiscard]] std::span<const DispatchCopy> copies() const noexcept { return copies_; }
  /// Picoseconds, of all ranks and copies together.
  [[nodiscard]] std::int64_t gain() const noexcept { return gain_; }

 private:
  /// An expert and a node in hand.
  struct Site {
    int expert = 0, node = 0;
    int begin = 0, end = 0;             ///< places
    int holder = -1;                    ///< -1: there are several
    const int* destinations = nullptr;  ///< (places), of several holders
    const std::int32_t* sources = nullptr;
    std::span<const int> places;  ///< those that may pay: all, or those that have the weights
    bool ready = false;           ///< whether some of them have
  };

  void look(int places);  ///< counts them
  void know_ready(int expert);
  void open_in_node(int expert, int node, std::span<const int> ready);
  void open_in(const Site& site);
  /// One for the rows that leave the node; -1 where none pays.
  [[nodiscard]] int open_first(const Site& site);
  void open(int expert, int rank, int from, std::int64_t gain);
  [[nodiscard]] int destination(int place, const Site& site) const;
  [[nodiscard]] bool may_get(int expert, int rank) const;
  /// Of a copy, whatever it saves: at its rank, and at `from` that sends the weights.
  [[nodiscard]] std::int64_t weights(int expert, int rank, int from) const;

  DispatchLoads* loads_ = nullptr;
  const DispatchOrder* order_ = nullptr;
  std::vector<std::uint64_t> candidates_;  ///< experts, the hottest first
  std::vector<int> ready_, places_;        ///< places that have the weights of the expert in hand, but its holder; all
  std::vector<std::uint64_t> ready_at_;    ///< (places / 64): a bit for each of ready_
  int looked_ = 0;                         ///< at places
  std::vector<std::int64_t> times_;        ///< (ranks): with the copies so far
  std::vector<std::int64_t> sent_;         ///< (ranks): picoseconds of weights' ways
  std::int64_t sum_ = 0;                   ///< of times without copies
  std::vector<int> arrivals_;              ///< (ranks)
  int most_arrivals_ = 0;
  std::int64_t enough_ = 0;  ///< rows of a node, up to which none pays that weights travel for
  std::vector<DispatchCopy> copies_, sorted_;
  std::vector<std::pair<std::int64_t, int>> gains_;  ///< (copies): less than none, and which
  std::int64_t gain_ = 0;
};

}  // namespace coterie
