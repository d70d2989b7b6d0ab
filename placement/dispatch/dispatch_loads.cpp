#include "placement/dispatch/dispatch_loads.hpp"

#include "placement/splitmix.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace coterie {

std::size_t most_copies(const DispatchLayer& layer) {
  return static_cast<std::size_t>(std::max(layer.experts, 3 * layer.ranks) + layer.ranks);
}

void DispatchLoads::add_item(int expert, int rank, std::int64_t rows, std::int64_t inside, std::int64_t between) {
  if (rows == 0) return;
  const std::int64_t ways = inside * costs_->row_inside + between * costs_->row_between;
  items_.push_back({expert, rank, rows, costs_->expert + rows * costs_->row + ways});
  times_[rank] += items_.back().cost;
}

void DispatchLoads::measure(const DispatchLayer& layer, const DispatchCosts& costs,
                            std::span<const std::int32_t> counts, std::span<const std::uint8_t> cached) {
  layer_ = &layer;
  costs_ = &costs;
  counts_ = counts;
  cached_ = cached;
  const auto experts = static_cast<std::size_t>(layer.experts);
  node_counts_.assign(layer.nodes * experts, 0);
  totals_.assign(experts, 0);
  most_.assign(experts, 0);
  for (int rank = 0; rank < layer.ranks;) {
    const int* node = layer.node_of_rank.data() + rank;
    const std::int32_t* from = counts.data() + rank * experts;
    std::int32_t* to = node_counts_.data() + *node * experts;
    if (rank + 4 <= layer.ranks && std::count(node, node + 4, *node) == 4) {  // half the time
      const std::int32_t *second = from + experts, *third = second + experts, *fourth = third + experts;
      for (std::size_t e = 0; e < experts; ++e) to[e] += from[e] + second[e] + third[e] + fourth[e];
      rank += 4;
    } else {
      for (std::size_t e = 0; e < experts; ++e) to[e] += from[e];
      ++rank;
    }
  }
  for (int node = 0; node < layer.nodes; ++node) {
    const std::int32_t* from = node_counts_.data() + node * experts;
    for (std::size_t e = 0; e < experts; ++e) {
      totals_[e] += from[e];
      most_[e] = std::max(most_[e], from[e]);
    }
  }
  directed_.assign(experts, 0);
  destinations_.resize(experts * layer.ranks);
  sources_.resize(experts * layer.ranks);
  const std::size_t groups = experts / kGathered + 1;
  gathered_.assign(groups, 0);
  summed_.assign(groups, 0);
  before_.resize(groups * layer.ranks * kGathered);
  first_copy_.assign(experts, -1);
  next_copy_.reserve(most_copies(layer));
  portions_.assign(layer.ranks, {});
  diverted_.resize(experts * words_of(layer.ranks));
  ordered_ = false;
  copies_ = {};
  plan_items();
  // What is done anyway counts, too, as long as enough is left to look for something.
  const std::size_t anyway = 12 * layer.shared.experts.size() + cached.size() / 20;
  spent_ = static_cast<int>(std::min<std::size_t>(anyway, kMostSpent / 2));
}

void DispatchLoads::plan_items() {
  const DispatchLayer& layer = *layer_;
  const SharedExperts& shared = layer.shared;
  const std::size_t all = shared.experts.size();
  shared_rows_.assign(shared.holders.size() * SharedExperts::ways, 0);
  for (int rank = 0; all > 0 && rank < layer.ranks; ++rank) {
    const std::int32_t* rows = counts_.data() + static_cast<std::ptrdiff_t>(rank) * layer.experts;
    const int* way = shared.way.data() + rank * all;
    for (std::size_t s = 0; s < all; ++s) shared_rows_[way[s]] += rows[shared.experts[s]];
  }
  items_.clear();
  items_.reserve(layer.holders + most_copies(layer));
  planned_items_.reserve(layer.holders);
  planned_begin_.clear();
  planned_begin_.reserve(layer.experts + 1);
  times_.assign(layer.ranks, 0);
  for (int e = 0; e < layer.experts; ++e) {
    planned_begin_.push_back(static_cast<int>(items_.size()));
    if (const int holder = layer.only_holder[e]; holder >= 0) {
      const std::int64_t near = node_rows(layer.node_of_rank[holder], e);
      add_item(e, holder, totals_[e], near - count(holder, e), totals_[e] - near);
      continue;
    }
    const int index = layer.shared_index[e];
    for (int i = shared.holder_begin[index]; i < shared.holder_begin[index + 1]; ++i) {
      const std::int32_t* rows = shared_rows_.data() + static_cast<std::ptrdiff_t>(i) * SharedExperts::ways;
      const std::int64_t inside = rows[SharedExperts::inside], between = rows[SharedExperts::between];
      add_item(e, shared.holders[i], rows[SharedExperts::own] + inside + between, inside, between);
    }
  }
  planned_begin_.push_back(static_cast<int>(items_.size()));
  planned_items_.assign(items_.begin(), items_.end());
  planned_times_.assign(times_.begin(), times_.end());
}

void DispatchLoads::spread(std::span<const DispatchCopy> copies) {
  const DispatchLayer& layer = *layer_;
  if (copies.empty() && copies_.empty()) return;
  for (const DispatchCopy& copy : copies_) {
    directed_[copy.expert] = 0;
    first_copy_[copy.expert] = -1;
  }
  copies_ = copies;
  items_.clear();
  times_.assign(planned_times_.begin(), planned_times_.end());
  next_copy_.resize(copies.size());
  for (std::size_t i = 0; i < copies.size(); ++i) {
    direct(copies[i]);
    next_copy_[i] = std::exchange(first_copy_[copies[i].expert], static_cast<int>(i));
  }
  for (int e = 0; e < layer.experts; ++e) {
    if (copied(e)) {
      spread(e);
    } else {
      const std::span<const DispatchItem> planned = planned_items(e);
      items_.insert(items_.end(), planned.begin(), planned.end());
    }
  }
}

void DispatchLoads::direct(int expert) {
  const DispatchLayer& layer = *layer_;
  directed_[expert] = 1;
  const std::vector<int>& place_of_rank = order().place_of_rank;
  int* to = destinations_.data() + static_cast<std::ptrdiff_t>(expert) * layer.ranks;
  if (const int only = layer.only_holder[expert]; only >= 0) {
    std::fill(to, to + layer.ranks, only);
    return;
  }
  for (const SharedExperts::Run& run : layer.shared.runs_of(layer.shared_index[expert])) {
    for (int rank = run.from; rank < run.to; ++rank) to[place_of_rank[rank]] = run.rank;
  }
}

/// To a copy go its rank's own rows, and to the first copy of a node those that would leave the node.
void DispatchLoads::direct(const DispatchCopy& copy) {
  const int node = layer_->node_of_rank[copy.rank];
  static_cast<void>(destinations(copy.expert));
  int* to = destinations_.data() + static_cast<std::ptrdiff_t>(copy.expert) * layer_->ranks;
  const std::size_t words = words_of(layer_->ranks);
  const std::span<std::uint64_t> diverted = std::span(diverted_).subspan(copy.expert * words, words);
  if (!copied(copy.expert)) std::fill(diverted.begin(), diverted.end(), 0);
  for (int p = order_.node_begin[node]; p < order_.node_begin[node + 1]; ++p) {
    const int rank = order_.ranks[p];
    if (rank != copy.rank && layer_->node_of_rank[to[p]] == node) continue;
    to[p] = copy.rank;
    set_bit(diverted, rank);
  }
  if (copy.weights_from < 0) return;
  for (const int rank : {copy.rank, copy.weights_from}) times_[rank] += weights_way(copy.weights_from, copy.rank);
}

/// Of an expert that has copies.
void DispatchLoads::spread(int expert) {
  const std::span<const DispatchItem> planned = planned_items(expert);
  const int* to = destinations(expert);
  for (const DispatchItem& item : planned) {
    times_[item.rank] -= item.cost;
    portions_[item.rank] = {expert, item.rank, item.rows, item.cost};
  }
  for (int i = first_copy_[expert]; i >= 0; i = next_copy_[i]) {
    DispatchItem& at = portions_[copies_[i].rank];
    if (at.rows == 0) at = {expert, copies_[i].rank, 0, costs_->expert};
  }
  for_each_bit(diverted(expert), [&](int rank) {
    const std::int64_t rows = count(rank, expert);
    DispatchItem &from = portions_[planned_destination(rank, expert)], &at = portions_[to[order_.place_of_rank[rank]]];
    from.rows -= rows;
    from.cost -= rows * (costs_->row + row_way(rank, from.rank));
    at.rows += rows;
    at.cost += rows * (costs_->row + row_way(rank, at.rank));
  });
  const auto add = [&](int rank) {
    const DispatchItem item = std::exchange(portions_[rank], {});
    if (item.rows == 0) return;
    items_.push_back(item);
    times_[rank] += item.cost;
  };
  for (const DispatchItem& item : planned) add(item.rank);
  for (int i = first_copy_[expert]; i >= 0; i = next_copy_[i]) add(copies_[i].rank);
}

void DispatchLoads::gather(int group) {
  gathered_[group] = 1;
  const int ranks = layer_->ranks, first = group * kGathered, last = std::min(first + kGathered, layer_->experts);
  const auto rows_of = [&](int place) {
    return counts_.data() + static_cast<std::ptrdiff_t>(order_.ranks[place]) * layer_->experts;
  };
  std::int32_t* const to = sources_.data();
  int p = 0;
  for (; p + 4 <= ranks; p += 4) {  // half the time
    const std::int32_t *a = rows_of(p), *b = rows_of(p + 1), *c = rows_of(p + 2), *d = rows_of(p + 3);
    for (int e = first; e < last; ++e) {
      const std::array<std::int32_t, 4> four{a[e], b[e], c[e], d[e]};
      std::copy(four.begin(), four.end(), to + static_cast<std::ptrdiff_t>(e) * ranks + p);
    }
  }
  for (; p < ranks; ++p) {
    for (int e = first; e < last; ++e) to[static_cast<std::ptrdiff_t>(e) * ranks + p] = rows_of(p)[e];
  }
}

void DispatchLoads::sum(int group) {
  summed_[group] = 1;
  const int first = group * kGathered, some = std::min(kGathered, layer_->experts - first);
  std::int32_t* to = before_.data() + static_cast<std::ptrdiff_t>(group) * layer_->ranks * kGathered;
  std::fill(to, to + kGathered, 0);
  for (int rank = 0; rank + 1 < layer_->ranks; ++rank, to += kGathered) {
    const std::int32_t* from = counts_.data() + static_cast<std::ptrdiff_t>(rank) * layer_->experts + first;
    if (some == kGathered) {
      for (int e = 0; e < kGathered; ++e) to[kGathered + e] = to[e] + from[e];
    } else {
      for (int e = 0; e < some; ++e) to[kGathered + e] = to[e] + from[e];
    }
  }
}

bool DispatchLoads::any_cached(int expert) const noexcept {
  if (cached_.empty()) return false;
  const std::uint8_t* row = cached_.data() + static_cast<std::size_t>(expert) * layer_->ranks;
  std::uint8_t any = 0;
  for (int r = 0; r < layer_->ranks; ++r) any |= row[r];
  return any != 0;
}

std::uint64_t DispatchLoads::signature(int rank) const {
  const std::int32_t* row = counts_.data() + static_cast<std::size_t>(rank) * layer_->experts;
  std::uint64_t sum = 0;
  for (int e = 0; e < layer_->experts; ++e) {
    const auto odd = static_cast<std::uint32_t>(2 * e + 1) * 0x9e3779b1U;
    sum += static_cast<std::uint64_t>(static_cast<std::uint32_t>(row[e])) * odd;
  }
  for (std::size_t e = 0; !cached_.empty() && e < static_cast<std::size_t>(layer_->experts); ++e) {
    if (cached_[e * layer_->ranks + rank] != 0) sum += SplitMix(e).next();
  }
  for (const int e : layer_->shared.experts) {
    const int to = planned_destination(rank, e);
    const std::uint64_t there = layer_->signature[to] + static_cast<std::uint64_t>(planned_times_[to]);
    if (row[e] > 0) sum += SplitMix(there + static_cast<std::uint64_t>(e)).next();
  }
  return layer_->signature[rank] ^ SplitMix(sum).next();
}

const DispatchOrder& DispatchLoads::order() {
  if (std::exchange(ordered_, true)) return order_;
  const auto ranks = static_cast<std::size_t>(layer_->ranks);
  order_.ranks.resize(ranks);
  order_.place_of_rank.resize(ranks);
  order_.node_begin.assign(layer_->nodes + 1, 0);
  for (const int node : layer_->node_of_rank) ++order_.node_begin[node];
  for (int n = 0, sum = 0; n <= layer_->nodes; ++n) sum += std::exchange(order_.node_begin[n], sum);
  signature_.assign(ranks, 0);
  for (int rank = 0; rank < layer_->ranks; ++rank) {
    order_.ranks[order_.node_begin[layer_->node_of_rank[rank]]++] = rank;
  }
  for (int n = layer_->nodes; n > 0; --n) order_.node_begin[n] = order_.node_begin[n - 1];
  order_.node_begin[0] = 0;
  const auto of = [&](int rank) {
    if (signature_[rank] == 0) signature_[rank] = signature(rank) | 1U;
    return signature_[rank];
  };
  for (int n = 0; n < layer_->nodes; ++n) {
    std::sort(order_.ranks.begin() + order_.node_begin[n], order_.ranks.begin() + order_.node_begin[n + 1],
              [&](int a, int b) {
                if (times_[a] != times_[b]) return times_[a] < times_[b];
                return of(a) != of(b) ? of(a) < of(b) : a < b;
              });
  }
  for (int p = 0; p < layer_->ranks; ++p) order_.place_of_rank[order_.ranks[p]] = p;
  return order_;
}

}  // namespace coterie
