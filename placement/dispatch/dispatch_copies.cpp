#include "placement/dispatch/dispatch_copies.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace coterie {
bool DispatchCopies::may_pay(const DispatchLoads& loads) {
  const DispatchLayer& layer = loads.layer();
  const DispatchCosts& costs = loads.costs();
  loads_ = &loads;
  candidates_.clear();
  candidates_.reserve(layer.experts);
  // A copy in its owner's node saves rows' ways inside it, one elsewhere those between nodes.
  const auto enough_rows = [&](std::int64_t weights, std::int64_t way) {
    return way == 0 ? std::numeric_limits<std::int64_t>::max() : (costs.expert + 2 * weights) / way;
  };
  const std::int64_t enough = enough_ = std::min(enough_rows(costs.weights_inside, costs.row_inside),
                                                 enough_rows(costs.weights_between, costs.row_between));
  for (int e = 0; e < layer.experts; ++e) {
    const bool free = layer.detours[e] != 0 || loads.any_cached(e);
    if (free) enough_ = 0;
    if (loads.most_node_rows(e) > enough || (free && loads.rows(e) > 0)) candidates_.push_back(e);
  }
  return !candidates_.empty();
}

void DispatchCopies::find(const DispatchLoads& loads, const DispatchOrder& order, int most_arrivals) {
  const DispatchLayer& layer = loads.layer();
  const std::size_t all = most_copies(layer), enough = all - layer.ranks;
  loads_ = &loads;
  most_arrivals_ = most_arrivals;
  times_.assign(loads.times().begin(), loads.times().end());
  arrivals_.assign(layer.ranks, 0);
  sent_.assign(layer.ranks, 0);
  sum_ = std::accumulate(times_.begin(), times_.end(), std::int64_t{0});
  found_.clear();
  found_.reserve(all);
  copies_.clear();
  copies_.reserve(all);
  gain_ = 0;
  std::sort(candidates_.begin(), candidates_.end(),
            [&](int a, int b) { return loads.rows(a) != loads.rows(b) ? loads.rows(a) > loads.rows(b) : a < b; });
  const auto of_node = [&](int n) {
    return std::span(order.ranks).subspan(order.node_begin[n], order.node_begin[n + 1] - order.node_begin[n]);
  };
  for (const int expert : candidates_) {
    for (int n = 0; n < layer.nodes; ++n) {
      if (found_.size() < enough && loads.node_rows(n, expert) > enough_) open_in(expert, of_node(n));
    }
  }
  // Few: sorted by insertion, as std::stable_sort would allocate.
  for (std::size_t i = 1; i < found_.size(); ++i) {
    std::rotate(std::upper_bound(found_.begin(), found_.begin() + static_cast<std::ptrdiff_t>(i), found_[i],
                                 [](const Found& a, const Found& b) { return a.gain > b.gain; }),
                found_.begin() + static_cast<std::ptrdiff_t>(i), found_.begin() + static_cast<std::ptrdiff_t>(i) + 1);
  }
  for (const Found& found : found_) copies_.push_back(found.copy);
}

bool DispatchCopies::may_get(int expert, int rank) const {
  return arrivals_[rank] < most_arrivals_ || loads_->holds(rank, expert);
}

std::int64_t DispatchCopies::weights(int expert, int rank) const {
  return loads_->holds(rank, expert) ? 0 : loads_->weights_way(loads_->destination(rank, expert), rank);
}

void DispatchCopies::open_in(int expert, std::span<const int> ranks) {
  const int first = open_first(expert, ranks);
  for (const int rank : ranks) {
    const int destination = loads_->destination(rank, expert);
    if (rank == first || destination == rank || !may_get(expert, rank)) continue;
    const int from = first >= 0 && !loads_->same_node(rank, destination) ? first : destination;
    const std::int64_t rows = loads_->count(rank, expert), way = loads_->row_way(rank, from);
    const std::int64_t gain = rows * way - loads_->costs().expert - 2 * weights(expert, rank);
    if (gain <= 0 || sent_[destination] + weights(expert, rank) > (sum_ - gain_) / loads_->layer().ranks / 2) continue;
    times_[rank] += loads_->costs().expert + rows * loads_->costs().row;
    times_[from] -= rows * (loads_->costs().row + way);
    open(expert, rank, gain);
  }
}

int DispatchCopies::open_first(int expert, std::span<const int> ranks) {
  const DispatchCosts& costs = loads_->costs();
  std::int64_t leave = 0;  // rows
  for (const int rank : ranks) {
    leave += loads_->same_node(rank, loads_->destination(rank, expert)) ? 0 : loads_->count(rank, expert);
  }
  if (leave == 0) return -1;
  int best = -1;
  std::int64_t least = 0, best_gain = 0;
  for (const int rank : ranks) {
    const int destination = loads_->destination(rank, expert);
    if (destination == rank || !may_get(expert, rank)) continue;
    const std::int64_t own = loads_->count(rank, expert);
    const std::int64_t others = leave - (loads_->same_node(rank, destination) ? 0 : own);
    const std::int64_t way = weights(expert, rank);
    const std::int64_t gain = own * loads_->row_way(rank, destination) +
                              others * (costs.row_between - costs.row_inside) - costs.expert - 2 * way;
    const std::int64_t then =
        times_[rank] + costs.expert + (own + others) * costs.row + others * costs.row_inside + way;
    if (gain > 0 && (best < 0 || then < least)) {
      best = rank;
      least = then;
      best_gain = gain;
    }
  }
  if (best < 0) return -1;
  for (const int rank : ranks) {
    const int destination = loads_->destination(rank, expert);
    if (rank == best || !loads_->same_node(rank, destination)) {
      times_[destination] -= loads_->count(rank, expert) * (costs.row + loads_->row_way(rank, destination));
    }
  }
  times_[best] = least - weights(expert, best);
  open(expert, best, best_gain);
  return best;
}

void DispatchCopies::open(int expert, int rank, std::int64_t gain) {
  const std::int64_t way = weights(expert, rank);
  const bool has = loads_->holds(rank, expert);
  arrivals_[rank] += has ? 0 : 1;
  const int from = loads_->destination(rank, expert);
  times_[rank] += way;
  times_[from] += way;
  sent_[from] += way;
  found_.push_back({{expert, rank, has ? -1 : from}, gain});
  gain_ += gain;
}

}  // namespace coterie
