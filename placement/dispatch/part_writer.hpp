// Writes the parts of one expert. Without branches, as hardly any could be predicted.
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"

#include <cstdint>
#include <vector>

namespace coterie {

class PartWriter {
 public:
  /// `parts` is memory for one part more than are written.
  PartWriter(std::vector<DispatchPart>& parts, int expert) : first_(parts.data()), next_(first_), expert_(expert) {}

  /// The next rows go to a rank.
  void add(int rank, std::int64_t rows) {
    const int some = rows > 0 ? 1 : 0, other = rank != last_ ? 1 : 0;
    *next_ = {expert_, rank, to_, 0};
    next_ += some & other;
    last_ ^= (last_ ^ rank) & -some;
    to_ += rows;
  }
  [[nodiscard]] std::int64_t to() const noexcept { return to_; }
  void append_to(std::vector<DispatchPart>& parts) {
    next_->from = to_;
    for (DispatchPart* part = first_; part < next_; ++part) part->to = part[1].from;
    parts.insert(parts.end(), first_, next_);
  }

 private:
  DispatchPart *first_, *next_;
  int expert_, last_ = -1;  ///< rank
  std::int64_t to_ = 0;
};

}  // namespace coterie
