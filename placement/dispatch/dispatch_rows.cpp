#include "placement/dispatch/dispatch_rows.hpp"

#include <utility>

namespace coterie {

void DispatchRows::begin(DispatchLoads& loads, int expert) {
  const DispatchLayer& layer = loads.layer();
  const std::int32_t* sources = loads.sources(expert);
  expert_ = expert;
  order_ = &loads.order();
  left_.assign(sources, sources + layer.ranks);
  given_of_place_.assign(layer.ranks, -1);
  given_.clear();
  given_.reserve(12 * (static_cast<std::size_t>(layer.ranks) + layer.holders + most_copies(layer)));
}

void DispatchRows::give(int place, int rank, std::int64_t rows) {
  if (rows == 0) return;
  given_.push_back({rank, rows, std::exchange(given_of_place_[place], static_cast<int>(given_.size()))});
  left_[place] -= static_cast<std::int32_t>(rows);
}

void DispatchRows::write(const int* destinations, std::vector<DispatchPart>& parts) const {
  std::int64_t begin = 0, end = 0;  // of the part in hand
  int rank = -1;
  const auto add = [&](int to, std::int64_t rows) {
    if (rows == 0) return;
    if (to != rank) {
      if (end > begin) parts.push_back({expert_, rank, begin, end});
      rank = to;
      begin = end;
    }
    end += rows;
  };
  for (const int p : order_->place_of_rank) {
    add(destinations[p], left_[p]);
    for (int g = given_of_place_[p]; g >= 0; g = given_[g].next) add(given_[g].rank, given_[g].rows);
  }
  if (end > begin) parts.push_back({expert_, rank, begin, end});
}

}  // namespace coterie
