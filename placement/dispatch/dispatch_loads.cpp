#include "placement/dispatch/dispatch_loads.hpp"

#include "placement/splitmix.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace coterie {

std::size_t most_copies(const DispatchLayer& layer) {
  return static_cast<std::size_t>(std::max(layer.experts, 3 * layer.ranks) + layer.ranks);
}

void DispatchLoads::add_item(int expert, int rank, std::int64_t rows, std::int64_t ways) {
  if (rows == 0) return;
  items_.push_back({expert, rank, rows});
  times_[rank] += costs_->expert + rows * costs_->row + ways;
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
  copied_.assign(experts, 0);
  destinations_.resize(experts * layer.ranks);
  sources_.resize(experts * layer.ranks);
  const std::size_t groups = experts / kGathered + 1;
  gathered_.assign(groups, 0);
  summed_.assign(groups, 0);
  before_.resize(groups * layer.ranks * kGathered);
  first_copy_.assign(experts, -1);
  next_copy_.reserve(most_copies(layer));
  catcher_.resize(layer.nodes);
  ordered_ = false;
  copies_ = {};
  items_.clear();
  spread({});
  planned_times_.assign(times_.begin(), times_.end());
}

void DispatchLoads::spread(std::span<const DispatchCopy> copies) {
  const DispatchLayer& layer = *layer_;
  if (copies.empty() && copies_.empty() && !items_.empty()) return;
  for (const DispatchCopy& copy : copies_) {
    copied_[copy.expert] = 0;
    first_copy_[copy.expert] = -1;
  }
  copies_ = copies;
  items_.clear();
  items_.reserve(layer.holders + most_copies(layer));
  times_.assign(layer.ranks, 0);
  portion_.assign(std::max(layer.ranks, layer.nodes), 0);
  ways_.assign(layer.ranks, 0);
  next_copy_.resize(copies.size());
  for (const DispatchCopy& copy : copies) direct(copy);
  for (std::size_t i = copies.size(); i-- > 0;) {
    next_copy_[i] = std::exchange(first_copy_[copies[i].expert], static_cast<int>(i));
  }
  for (int e = 0; e < layer.experts; ++e) {
    const int holder = layer.only_holder[e];
    if (holder < 0) {
      spread_shared(e);
    } else if (copied_[e] != 0) {
      spread_copies(e);
    } else {
      const std::int64_t near = node_rows(layer.node_of_rank[holder], e);
      add_item(e, holder, totals_[e],
               (totals_[e] - near) * costs_->row_between + (near - count(holder, e)) * costs_->row_inside);
    }
  }
}

/// To a copy go its rank's own rows, and to the first copy of a node those that would leave the node.
void DispatchLoads::direct(const DispatchCopy& copy) {
  const int ranks = layer_->ranks, place = order_.place_of_rank[copy.rank], node = layer_->node_of_rank[copy.rank];
  int* to = destinations_.data() + static_cast<std::ptrdiff_t>(copy.expert) * ranks;
  if (copied_[copy.expert] == 0) {
    for (int p = 0; p < ranks; ++p) to[p] = planned_destination(order_.ranks[p], copy.expert);
  }
  for (int p = order_.node_begin[node]; p < order_.node_begin[node + 1]; ++p) {
    if (layer_->node_of_rank[to[p]] != node) to[p] = copy.rank;
  }
  to[place] = copy.rank;
  copied_[copy.expert] = 1;
  if (copy.weights_from < 0) return;
  for (const int rank : {copy.rank, copy.weights_from}) times_[rank] += weights_way(copy.weights_from, copy.rank);
}

/// Of an expert that several ranks hold.
void DispatchLoads::spread_shared(int expert) {
  const int ranks = layer_->ranks;
  for (int rank = 0; rank < ranks; ++rank) {
    const int to =
        copied_[expert] != 0 ? destination(order_.place_of_rank[rank], expert) : planned_destination(rank, expert);
    portion_[to] += count(rank, expert);
    ways_[to] += count(rank, expert) * row_way(rank, to);
  }
  for (int rank = 0; rank < ranks; ++rank) {
    add_item(expert, rank, portion_[rank], ways_[rank]);
    portion_[rank] = ways_[rank] = 0;
  }
}

/// Of an expert that one rank holds, and some have copies of.
void DispatchLoads::spread_copies(int expert) {
  const DispatchLayer& layer = *layer_;
  const DispatchCosts& costs = *costs_;
  const std::int32_t* rows_of = sources(expert);
  const int holder = layer.only_holder[expert], home = layer.node_of_rank[holder];
  for (int n = 0; n < layer.nodes; ++n) {
    portion_[n] = node_rows(n, expert);
    catcher_[n] = n == home ? holder : -1;
  }
  for (int i = first_copy_[expert]; i >= 0; i = next_copy_[i]) {
    const int rank = copies_[i].rank, node = layer.node_of_rank[rank];
    if (catcher_[node] < 0) {
      catcher_[node] = rank;
      continue;
    }
    const std::int32_t own = rows_of[order_.place_of_rank[rank]];
    add_item(expert, rank, own, 0);
    portion_[node] -= own;
  }
  std::int64_t rows = 0, ways = 0;  // of the holder
  for (int n = 0; n < layer.nodes; ++n) {
    const std::int64_t of_node = std::exchange(portion_[n], 0);
    if (catcher_[n] < 0) {
      rows += of_node;
      ways += of_node * costs.row_between;
      continue;
    }
    const std::int64_t inside = (of_node - rows_of[order_.place_of_rank[catcher_[n]]]) * costs.row_inside;
    if (n == home) {
      rows += of_node;
      ways += inside;
    } else {
      add_item(expert, catcher_[n], of_node, inside);
    }
  }
  add_item(expert, holder, rows, ways);
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
