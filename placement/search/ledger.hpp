// Keeps count of what the limits of a problem speak about, while a search exchanges experts: experts and rows per rank.
#pragma once

#include "placement/search/search_model.hpp"

#include <vector>

namespace coterie {

class Ledger {
 public:
  explicit Ledger(const Problem& problem);

  void restart(const Assignment& assignment);
  /// True when `rank` may give an expert away or take one more.
  [[nodiscard]] bool may_give(int layer, int rank) const { return count_[at(layer, rank)] > fewest_; }
  [[nodiscard]] bool may_take(int layer, int rank) const { return count_[at(layer, rank)] < most_; }
  [[nodiscard]] int ranks() const noexcept { return ranks_; }
  [[nodiscard]] bool counts_vary() const noexcept { return fewest_ < most_; }
  [[nodiscard]] bool limits_load() const noexcept { return !limit_.empty(); }
  /// Rows above the load limit, over all ranks of a layer.
  [[nodiscard]] double excess(int layer) const;
  /// Excess after the exchange less excess before. `from`: where the expert is.
  [[nodiscard]] double change(const Exchange& exchange, int from) const;
  void apply(const Exchange& exchange, int from);
  /// Rows that go along from the expert's rank to `to`, less those that come back.
  [[nodiscard]] double shifted(const Exchange& exchange) const;

 private:
  [[nodiscard]] std::size_t at(int layer, int rank) const { return static_cast<std::size_t>(layer) * ranks_ + rank; }
  int ranks_, experts_, fewest_, most_;
  std::vector<double> load_;   // (layers, experts)
  std::vector<double> limit_;  // (layers); empty: no limit
  std::vector<int> count_;     // (layers, ranks)
  std::vector<double> rows_;   // (layers, ranks)
};

}  // namespace coterie
