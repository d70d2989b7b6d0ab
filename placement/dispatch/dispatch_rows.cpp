#include "placement/dispatch/dispatch_rows.hpp"

#include <bit>
#include <utility>

namespace coterie {

void DispatchRows::reserve(const DispatchLayer& layer) {
  const auto ranks = static_cast<std::size_t>(layer.ranks);
  left_.reserve(ranks);
  given_of_place_.reserve(ranks);
  gives_.reserve(ranks / 64 + 1);
  given_.reserve(12 * (ranks + layer.holders + most_copies(layer)));
}

void DispatchRows::begin(DispatchLoads& loads, int expert) {
  const DispatchLayer& layer = loads.layer();
  const std::int32_t* sources = loads.sources(expert);
  expert_ = expert;
  order_ = &loads.order();
  left_.assign(sources, sources + layer.ranks);
  given_of_place_.assign(layer.ranks, -1);
  gives_.assign(layer.ranks / 64 + 1, 0);
  given_.clear();
}

void DispatchRows::give(int place, int rank, std::int64_t rows) {
  if (rows == 0) return;
  given_.push_back({rank, rows, std::exchange(given_of_place_[place], static_cast<int>(given_.size()))});
  left_[place] -= static_cast<std::int32_t>(rows);
  const auto rank_from = static_cast<unsigned>(order_->ranks[place]);
  gives_[rank_from / 64] |= std::uint64_t{1} << rank_from % 64;
}

void DispatchRows::write(DispatchLoads& loads, std::vector<DispatchPart>& parts) const {
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
  const auto add_given = [&](int place) {
    for (int g = given_of_place_[place]; g >= 0; g = given_[g].next) add(given_[g].rank, given_[g].rows);
  };
  if (loads.shared(expert_)) {
    const int* destinations = loads.destinations(expert_);
    for (const int p : order_->place_of_rank) {
      add(destinations[p], left_[p]);
      add_given(p);
    }
  } else {  // the rows between those that were given stay together
    const int owner = loads.layer().only_holder[expert_];
    const std::int32_t* before = loads.rows_before(expert_);
    for (std::size_t word = 0; word < gives_.size(); ++word) {
      for (std::uint64_t bits = gives_[word]; bits != 0; bits &= bits - 1) {
        const auto source = word * 64 + static_cast<std::size_t>(std::countr_zero(bits));
        const int p = order_->place_of_rank[source];
        add(owner, before[source * DispatchLoads::kGathered] - end);
        add(owner, left_[p]);
        add_given(p);
      }
    }
    add(owner, loads.rows(expert_) - end);
  }
  if (end > begin) parts.push_back({expert_, rank, begin, end});
}

}  // namespace coterie
