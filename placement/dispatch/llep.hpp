// The policy llep: least-loaded assignment and spill by rows, as LLEP states it (arXiv 2601.17111, Algorithms 2 to 4).
#pragma once

#include "placement/dispatch/dispatch_loads.hpp"

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace coterie {

class Llep {
 public:
  /// So that solve() allocates nothing.
  void reserve(const DispatchLayer& layer);
  /// Decides where rows go; of equally loaded ranks the first one in `ranks` takes them. False where the heaviest rank
  /// is below the threshold. An expert that several ranks hold belongs to the first of them.
  [[nodiscard]] bool solve(const DispatchLoads& loads, const DispatchOptions& options, std::span<const int> ranks);
  /// Experts that their ranks don't keep whole, one after the other: what each rank computes of them, by `from`.
  [[nodiscard]] std::span<const DispatchPart> chunks() const noexcept { return chunks_; }
  [[nodiscard]] int owner(int expert) const noexcept { return owner_[expert]; }
  /// Appends all rows, by expert and `from`, and each transfer that they need.
  void write(const DispatchLoads& loads, std::vector<DispatchPart>& parts,
             std::vector<DispatchTransfer>& transfers) const;

 private:
  /// Rows [from, to) of an expert.
  void spill(int expert, std::int64_t from, std::int64_t to, std::int64_t min_rows, std::span<const int> ranks);
  [[nodiscard]] std::int64_t load(int rank) const { return assigned_[rank] + pending_[rank]; }

  std::int64_t capacity_ = 0;
  std::vector<int> owner_;                             ///< (experts)
  std::vector<std::pair<std::int64_t, int>> by_rows_;  ///< less than no rows, expert
  std::vector<int> first_chunk_;                       ///< (experts): -1: all rows stay
  std::vector<DispatchPart> chunks_;                   ///< of the other experts, one after the other
  std::vector<std::int64_t> assigned_, pending_;       ///< (ranks)
};

/// The time of the slowest rank, by the prices of DispatchCosts, when rows are computed so.
[[nodiscard]] std::int64_t predicted_time(DispatchLoads& loads, const std::vector<DispatchPart>& parts,
                                          const std::vector<DispatchTransfer>& transfers,
                                          std::vector<std::int64_t>& times);

}  // namespace coterie
