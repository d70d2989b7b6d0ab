// Deals the rows of one expert to ranks, and writes who got which as parts of a dispatch plan.
#pragma once

#include "placement/dispatch/dispatch_loads.hpp"

#include <cstdint>
#include <vector>

namespace coterie {

class DispatchRows {
 public:
  void reserve(const DispatchLayer& layer);  ///< so that nothing else allocates
  /// All rows of an expert, which nobody has yet.
  void begin(DispatchLoads& loads, int expert);
  /// To `rank`, so many of the rank's in `place`: the last that are left.
  void give(int place, int rank, std::int64_t rows);
  [[nodiscard]] std::int64_t left(int place) const noexcept { return left_[place]; }
  /// Appends parts by `from`; what is left goes to its place's destination.
  void write(DispatchLoads& loads, std::vector<DispatchPart>& parts) const;

 private:
  /// Rows of one source; those of a source are linked, the last first.
  struct Given {
    int rank = 0;
    std::int64_t rows = 0;
    int next = -1;
  };

  int expert_ = 0;
  const DispatchOrder* order_ = nullptr;
  std::vector<std::int32_t> left_;    ///< (places): rows that nobody has yet
  std::vector<int> given_of_place_;   ///< (places): -1 ends
  std::vector<std::uint64_t> gives_;  ///< (ranks / 64): a bit for each that has some in given_
  std::vector<Given> given_;
};

}  // namespace coterie
