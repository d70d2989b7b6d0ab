// The policy llep: least-loaded assignment and spill by rows, as LLEP states it (arXiv 2601.17111, Algorithms 2 to 4).
#pragma once

#include "placement/dispatch/dispatch_loads.hpp"

#include <cstdint>
#include <vector>

namespace coterie {

class Llep {
 public:
  /// Appends all rows, by expert and `from`, to `parts`, and each transfer that they need. False, and nothing appended,
  /// where the heaviest rank is below the threshold. An expert that several ranks hold belongs to the first of them.
  [[nodiscard]] bool solve(const DispatchLoads& loads, const DispatchOptions& options, std::vector<DispatchPart>& parts,
                           std::vector<DispatchTransfer>& transfers);

 private:
  void spill(int expert, int owner, std::int64_t from, std::int64_t min_rows, std::vector<DispatchPart>& parts);
  [[nodiscard]] std::int64_t load(int rank) const { return assigned_[rank] + pending_[rank]; }

  std::int64_t capacity_ = 0;
  std::vector<std::int64_t> rows_;                ///< (experts)
  std::vector<int> owner_;                        ///< (experts)
  std::vector<int> by_rows_;                      ///< (experts)
  std::vector<int> by_load_;                      ///< (ranks)
  std::vector<std::int64_t> assigned_, pending_;  ///< (ranks)
};

/// The time of the slowest rank, by the prices of DispatchCosts, when rows are computed so.
[[nodiscard]] std::int64_t predicted_time(const DispatchLoads& loads, const std::vector<DispatchPart>& parts,
                                          const std::vector<DispatchTransfer>& transfers,
                                          std::vector<std::int64_t>& times);

}  // namespace coterie
