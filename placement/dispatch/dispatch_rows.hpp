// Deals the rows of one expert to ranks, and writes who got which as parts of a dispatch plan.
#pragma once

#include "placement/dispatch/dispatch_loads.hpp"

#include <cstdint>
#include <span>
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
  void write(DispatchLoads& loads, std::vector<DispatchPart>& parts);
  /// The same of an expert of which nothing is given.
  void write_undivided(DispatchLoads& loads, int expert, std::vector<DispatchPart>& parts);

 private:
  /// Rows of one source; those of a source are linked, the last first.
  struct Given {
    int rank = 0;
    std::int64_t rows = 0;
    int next = -1;
  };

  /// `add` appends the rows of a place: of each in `others`, or of all where several ranks hold the expert.
  template <class Add>
  void write_each(DispatchLoads& loads, int expert, std::span<const std::uint64_t> others,
                  std::vector<DispatchPart>& parts, Add add);

  int expert_ = 0;
  const DispatchOrder* order_ = nullptr;
  std::vector<std::int32_t> left_;    ///< (places): rows that nobody has yet
  std::vector<std::int32_t> rest_;    ///< (places): the rows that were the last to be given
  std::vector<int> rest_to_;          ///< (places): the rank that gets those, or what is left
  std::vector<int> given_of_place_;   ///< (places): what was given before, -1 ends
  std::vector<std::uint64_t> gives_;  ///< a bit for each rank that has given some
  std::vector<Given> given_;
  std::vector<DispatchPart> parts_;  ///< of an expert
};

}  // namespace coterie
