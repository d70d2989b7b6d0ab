#include "placement/dispatch/dispatch_copies.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

namespace coterie {
namespace {

constexpr int kMostLooked = 2500;      // places of all sites, until no more copies are made
constexpr int kMostSpentFirst = 3000;  // until then

}  // namespace

bool DispatchCopies::may_pay(const DispatchLoads& loads) {
  const DispatchLayer& layer = loads.layer();
  const DispatchCosts& costs = loads.costs();
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
    if (loads.most_node_rows(e) <= enough && (!free || loads.rows(e) == 0)) continue;
    candidates_.push_back(hottest_first(loads.rows(e), e));
  }
  return !candidates_.empty();
}

void DispatchCopies::find(DispatchLoads& loads, int most_arrivals) {
  const DispatchLayer& layer = loads.layer();
  const std::size_t most = most_copies(layer), enough = most - layer.ranks;
  loads_ = &loads;
  order_ = &loads.order();
  most_arrivals_ = most_arrivals;
  times_.assign(loads.times().begin(), loads.times().end());
  arrivals_.assign(layer.ranks, 0);
  sent_.assign(layer.ranks, 0);
  sum_ = std::accumulate(times_.begin(), times_.end(), std::int64_t{0});
  for (auto* of : {&copies_, &sorted_}) {
    of->clear();
    of->reserve(most);
  }
  gains_.clear();
  gains_.reserve(most);
  gain_ = 0;
  looked_ = 0;
  ready_.reserve(layer.ranks);
  ready_at_.reserve(words_of(layer.ranks));
  places_.resize(layer.ranks);
  std::iota(places_.begin(), places_.end(), 0);
  std::sort(candidates_.begin(), candidates_.end());
  for (const std::uint64_t candidate : candidates_) {
    const int expert = index_of(candidate);
    know_ready(expert);
    const bool all = loads.most_node_rows(expert) > enough_;
    if (all) look(layer.nodes / 4);
    auto begin = ready_.begin();
    for (int n = 0; n < layer.nodes && (all || begin != ready_.end()); ++n) {
      if (copies_.size() >= enough || looked_ >= kMostLooked || loads.exhausted(kMostSpentFirst)) return;
      if (!all) n = layer.node_of_rank[order_->ranks[*begin]];
      const bool has_ready = begin != ready_.end() && *begin < order_->node_begin[n + 1];
      if (loads.node_rows(n, expert) <= enough_ && !has_ready) continue;
      const auto end = std::find_if(begin, ready_.end(), [&](int p) { return p >= order_->node_begin[n + 1]; });
      open_in_node(expert, n, {begin, end});
      begin = end;
    }
  }
}

void DispatchCopies::look(int places) {
  looked_ += places;
  loads_->spend(places);
}

void DispatchCopies::know_ready(int expert) {
  const DispatchLayer& layer = loads_->layer();
  ready_.clear();
  if (layer.detours[expert] == 0 && !loads_->any_cached()) return;
  ready_at_.assign(words_of(layer.ranks), 0);
  loads_->for_each_holding(expert, [&](int rank) {
    if (rank != layer.only_holder[expert]) set_bit(ready_at_, order_->place_of_rank[rank]);
  });
  for_each_bit(ready_at_, [&](int place) { ready_.push_back(place); });
  look(4 + static_cast<int>(ready_.size()) / 2);
}

void DispatchCopies::open_in_node(int expert, int node, std::span<const int> ready) {
  const std::int64_t rows = loads_->node_rows(node, expert);
  const bool all = rows > enough_;
  if (rows == 0 || (!all && ready.empty())) return;
  const int begin = order_->node_begin[node], end = order_->node_begin[node + 1];
  const int holder = loads_->layer().only_holder[expert];
  open_in({expert, node, begin, end, holder, holder >= 0 ? nullptr : loads_->destinations(expert),
           loads_->sources(expert), all ? std::span<const int>(places_).subspan(begin, end - begin) : ready,
           !ready.empty()});
}

void DispatchCopies::sort() {
  std::sort(gains_.begin(), gains_.end());
  sorted_.clear();
  for (auto& [gain, index] : gains_) {
    sorted_.push_back(copies_[index]);
    index = static_cast<int>(sorted_.size()) - 1;
  }
  copies_.swap(sorted_);
}

int DispatchCopies::destination(int place, const Site& site) const {
  return site.holder >= 0 ? site.holder : site.destinations[place];
}

bool DispatchCopies::may_get(int expert, int rank) const {
  return arrivals_[rank] < most_arrivals_ || loads_->holds(rank, expert);
}

std::int64_t DispatchCopies::weights(int expert, int rank, int from) const {
  return loads_->holds(rank, expert) ? 0 : loads_->weights_way(from, rank);
}

void DispatchCopies::open_in(const Site& site) {
  const DispatchCosts& costs = loads_->costs();
  look(4 + static_cast<int>(site.places.size()));
  const int expert = site.expert, node = site.node, first = open_first(site);
  if (!site.ready && site.holder >= 0) {  // all weights travel
    const bool home = loads_->layer().node_of_rank[site.holder] == node;
    const std::int64_t way = home || first >= 0 ? costs.row_inside : costs.row_between;
    const std::int64_t sent = home ? costs.weights_inside : costs.weights_between;
    if (loads_->node_rows(node, expert) * way <= costs.expert + 2 * sent) return;
  }
  const std::int64_t most_sent = (sum_ - gain_) / loads_->layer().ranks / 2;
  for (const int p : site.places) {
    const int rank = order_->ranks[p], to = destination(p, site);
    if (rank == first || to == rank) continue;
    const int from = first >= 0 && !loads_->same_node(rank, to) ? first : to;
    const std::int64_t rows = site.sources[p], way = loads_->row_way(rank, from), saved = rows * way - costs.expert;
    if (saved <= 0 || !may_get(expert, rank)) continue;
    const std::int64_t sent = weights(expert, rank, to), gain = saved - 2 * sent;
    if (gain <= 0 || sent_[to] + sent > most_sent) continue;
    times_[rank] += costs.expert + rows * costs.row;
    times_[from] -= rows * (costs.row + way);
    open(expert, rank, to, gain);
  }
}

int DispatchCopies::open_first(const Site& site) {
  const DispatchCosts& costs = loads_->costs();
  const int expert = site.expert;
  const std::vector<int>& node_of = loads_->layer().node_of_rank;
  if (site.holder >= 0 && node_of[site.holder] == site.node) return -1;
  std::int64_t leave = site.holder >= 0 ? loads_->node_rows(site.node, expert) : 0;  // rows
  for (int p = site.begin; site.holder < 0 && p < site.end; ++p) {
    leave += node_of[destination(p, site)] == site.node ? 0 : site.sources[p];
  }
  if (leave == 0) return -1;
  int best = -1;
  std::int64_t least = 0, best_gain = 0;
  for (const int p : site.places) {
    const int rank = order_->ranks[p], to = destination(p, site);
    if (to == rank || !may_get(expert, rank)) continue;
    const std::int64_t own = site.sources[p], others = leave - (loads_->same_node(rank, to) ? 0 : own);
    const std::int64_t way = weights(expert, rank, to);
    const std::int64_t gain =
        own * loads_->row_way(rank, to) + others * (costs.row_between - costs.row_inside) - costs.expert - 2 * way;
    const std::int64_t then =
        times_[rank] + costs.expert + (own + others) * costs.row + others * costs.row_inside + way;
    if (gain > 0 && (best < 0 || then < least)) {
      best = p;
      least = then;
      best_gain = gain;
    }
  }
  if (best < 0) return -1;
  if (site.holder >= 0) times_[site.holder] -= leave * (costs.row + costs.row_between);
  for (int p = site.begin; site.holder < 0 && p < site.end; ++p) {
    const int rank = order_->ranks[p], to = destination(p, site);
    if (p == best || !loads_->same_node(rank, to)) {
      times_[to] -= site.sources[p] * (costs.row + loads_->row_way(rank, to));
    }
  }
  const int rank = order_->ranks[best], from = destination(best, site);
  times_[rank] = least - weights(expert, rank, from);
  open(expert, rank, from, best_gain);
  return rank;
}

void DispatchCopies::open(int expert, int rank, int from, std::int64_t gain) {
  const std::int64_t way = weights(expert, rank, from);
  const bool has = loads_->holds(rank, expert);
  arrivals_[rank] += has ? 0 : 1;
  times_[rank] += way;
  times_[from] += way;
  sent_[from] += way;
  loads_->spend(loads_->layer().only_holder[expert] >= 0 ? 6 : 26);  // to spread and write it
  gains_.emplace_back(-gain, static_cast<int>(copies_.size()));
  copies_.push_back({expert, rank, has ? -1 : from});
  gain_ += gain;
}

}  // namespace coterie
