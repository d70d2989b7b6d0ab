#include "placement/dispatch/dispatch_rows.hpp"

#include "placement/dispatch/part_writer.hpp"

#include <algorithm>
#include <utility>

namespace coterie {

void DispatchRows::reserve(const DispatchLayer& layer) {
  const auto ranks = static_cast<std::size_t>(layer.ranks);
  left_.reserve(ranks);
  rest_.reserve(ranks);
  rest_to_.reserve(ranks);
  given_of_place_.reserve(ranks);
  gives_.reserve(words_of(layer.ranks));
  const std::size_t most_given = 12 * (ranks + layer.holders + most_copies(layer));
  given_.reserve(most_given);
  parts_.resize(2 * (ranks + most_given) + 1);
}

void DispatchRows::begin(DispatchLoads& loads, int expert) {
  const DispatchLayer& layer = loads.layer();
  const std::int32_t* sources = loads.sources(expert);
  expert_ = expert;
  order_ = &loads.order();
  const int* destinations = loads.destinations(expert);
  left_.assign(sources, sources + layer.ranks);
  rest_.assign(layer.ranks, 0);
  rest_to_.assign(destinations, destinations + layer.ranks);
  given_of_place_.assign(layer.ranks, -1);
  gives_.assign(words_of(layer.ranks), 0);
  given_.clear();
}

void DispatchRows::give(int place, int rank, std::int64_t rows) {
  if (rows == 0) return;
  const auto some = static_cast<std::int32_t>(rows);
  if (some == left_[place]) {
    rest_[place] = some;
    rest_to_[place] = rank;
  } else {
    given_.push_back({rank, rows, std::exchange(given_of_place_[place], static_cast<int>(given_.size()))});
  }
  left_[place] -= some;
  set_bit(gives_, order_->ranks[place]);
}

template <class Add>
void DispatchRows::write_each(DispatchLoads& loads, int expert, std::span<const std::uint64_t> others,
                              std::vector<DispatchPart>& parts, Add add) {
  const std::vector<int>& place_of_rank = loads.order().place_of_rank;
  parts_.resize(std::max(parts_.size(), 2 * place_of_rank.size() + given_.size() + 2));
  PartWriter writer(parts_, expert);
  if (const int owner = loads.layer().only_holder[expert]; owner >= 0) {
    const std::int32_t* before = loads.rows_before(expert);
    for_each_bit(others, [&](int rank) {
      writer.add(owner, before[rank * DispatchLoads::kGathered] - writer.to());
      add(place_of_rank[rank], writer);
    });
    writer.add(owner, loads.rows(expert) - writer.to());
  } else {
    for (const int place : place_of_rank) add(place, writer);
  }
  writer.append_to(parts);
}

void DispatchRows::write(DispatchLoads& loads, std::vector<DispatchPart>& parts) {
  if (loads.copied(expert_)) {
    for (std::size_t word = 0; word < gives_.size(); ++word) gives_[word] |= loads.diverted(expert_)[word];
  }
  write_each(loads, expert_, gives_, parts, [&](int place, PartWriter& writer) {
    writer.add(rest_to_[place], left_[place] + rest_[place]);
    for (int g = given_of_place_[place]; g >= 0; g = given_[g].next) writer.add(given_[g].rank, given_[g].rows);
  });
}

void DispatchRows::write_undivided(DispatchLoads& loads, int expert, std::vector<DispatchPart>& parts) {
  const DispatchLayer& layer = loads.layer();
  const std::int64_t rows = loads.rows(expert);
  if (loads.copied(expert)) {
    const std::int32_t* sources = loads.sources(expert);
    const int* destinations = loads.destinations(expert);
    write_each(loads, expert, loads.diverted(expert), parts,
               [&](int place, PartWriter& writer) { writer.add(destinations[place], sources[place]); });
  } else if (layer.only_holder[expert] >= 0) {
    if (rows > 0) parts.push_back({expert, layer.only_holder[expert], 0, rows});
  } else {
    const std::int32_t* before = loads.rows_before(expert);
    PartWriter writer(parts_, expert);
    for (const SharedExperts::Run& run : layer.shared.runs_of(layer.shared_index[expert])) {
      const std::int64_t end = run.to == layer.ranks ? rows : before[run.to * DispatchLoads::kGathered];
      writer.add(run.rank, end - writer.to());
    }
    writer.append_to(parts);
  }
}

}  // namespace coterie
