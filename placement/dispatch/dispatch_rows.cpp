#include "placement/dispatch/dispatch_rows.hpp"

namespace coterie {

void DispatchRows::begin(DispatchLoads& loads, int expert) {
  const DispatchLayer& layer = loads.layer();
  const std::int32_t* sources = loads.sources(expert);
  expert_ = expert;
  order_ = &loads.order();
  left_.assign(sources, sources + layer.ranks);
  first_given_.assign(layer.ranks, -1);
  last_given_.resize(layer.ranks);
  given_.clear();
  given_.reserve(12 * (static_cast<std::size_t>(layer.ranks) + layer.holders + most_copies(layer)));
}

void DispatchRows::give(int place, int rank, std::int64_t rows) {
  if (rows == 0) return;
  const auto index = static_cast<int>(given_.size());
  (first_given_[place] < 0 ? first_given_[place] : given_[last_given_[place]].next) = index;
  last_given_[place] = index;
  given_.push_back({rank, rows, -1});
  left_[place] -= rows;
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
    for (int g = first_given_[p]; g >= 0; g = given_[g].next) add(given_[g].rank, given_[g].rows);
  }
  if (end > begin) parts.push_back({expert_, rank, begin, end});
}

}  // namespace coterie
