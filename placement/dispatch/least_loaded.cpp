#include "placement/dispatch/least_loaded.hpp"

#include <algorithm>
#include <array>
#include <limits>

namespace coterie {

/// What a helper can take of an item, by where the rows come from.
struct LeastLoaded::Offer {
  enum Source { own, node, other_nodes, owners_node, owner, sources };
  std::array<std::int64_t, sources> rows{};
  int weights_from = -1;
  std::int64_t cost = 0;    ///< to the helper
  std::int64_t saving = 0;  ///< to the item's rank
  std::int64_t total = 0;   ///< rows
};

std::size_t LeastLoaded::cell(int rank, int expert) const {
  return static_cast<std::size_t>(expert) * loads_->layer().ranks + rank;
}

bool LeastLoaded::shared(int expert) const {
  return loads_->layer().only_holder[expert] < 0;
}

bool LeastLoaded::has(int rank, int expert) const {
  return loads_->has(rank, expert) || arrived_[cell(rank, expert)] == pass_;
}

void LeastLoaded::clear() {
  best_chunks_.clear();
  best_draws_.clear();
}

DispatchPlan::Stayed LeastLoaded::solve(DispatchLoads& loads, int most_arrivals) {
  using Stayed = DispatchPlan::Stayed;
  constexpr int kFew = 8;                                  // ranks, among which one expert more or less matters
  constexpr std::int64_t kFirstStep = 64, kFinest = 1024;  // of the time: where the search begins and ends
  loads_ = &loads;
  most_arrivals_ = most_arrivals;
  const std::int64_t before = *std::max_element(loads.times().begin(), loads.times().end());
  std::int64_t rows = 0, mean = 0;
  for (const DispatchItem& item : loads.items()) rows += item.rows;
  for (const std::int64_t time : loads.times()) mean += time;
  mean /= loads.layer().ranks;
  reached_ = before;
  clear();
  if (loads.layer().ranks == 1 || before - mean <= before / 64) return Stayed::balanced;
  prepare();

  const std::int64_t bound = rows * loads.costs().row / loads.layer().ranks;  // no plan is faster
  std::int64_t low = bound;
  std::int64_t high = before;
  const auto attempt = [&](std::int64_t target) {
    const bool reached = reach(target);
    if (reached) {
      high = reached_;
      best_chunks_.swap(chunks_);
      best_draws_.swap(draws_);
    } else {
      low = target + 1;
    }
    return reached;
  };
  const auto search = [&] {
    // Most solutions lie near the mean: from there in steps that double, then by halves.
    std::int64_t step = mean / kFirstStep + 1;
    const bool up = !attempt(std::min(mean + step, high - 1));
    for (;; step *= 2) {
      const std::int64_t target = up ? low + step : high - step;
      if (target < low || target >= high || attempt(target) == up) break;
    }
    while (high - low > high / kFinest) attempt(low + (high - low) / 2);
  };
  tight_first_ = false;
  search();
  if (loads.layer().ranks <= kFew) {
    low = bound;
    tight_first_ = true;
    search();
  }
  reached_ = high;
  return high < before ? Stayed::spilled : Stayed::not_worth_it;
}

void LeastLoaded::prepare() {
  const DispatchLayer& layer = loads_->layer();
  const auto& items = loads_->items();
  const std::size_t cells = static_cast<std::size_t>(layer.experts) * layer.ranks;
  order_.resize(layer.ranks);
  place_.resize(layer.ranks);
  room_.resize(layer.ranks);
  sorted_.assign(layer.ranks, 0);
  by_time_.resize(layer.ranks);
  arrivals_.resize(layer.ranks);
  helped_.resize(layer.ranks, 0);
  pool_.resize(layer.nodes);
  if (arrived_.size() != cells || pass_ > std::numeric_limits<std::uint32_t>::max() / 2) {
    arrived_.assign(cells, 0);
    present_.assign(cells, 0);
    pass_ = 0;
  }
  const std::size_t most = static_cast<std::size_t>(layer.ranks) + layer.holders;  // each fills a rank or ends an item
  chunks_.reserve(most);
  best_chunks_.reserve(most);
  for (auto* draws : {&draws_, &best_draws_})
    draws->reserve(4 * most + static_cast<std::size_t>(layer.nodes) * layer.experts);
  items_.reserve(layer.holders);
  left_.reserve(layer.holders);
  loads_->order(order_);
  for (int i = 0; i < layer.ranks; ++i) place_[order_[i]] = i;
  node_begin_.assign(layer.nodes + 1, 0);
  for (const int node : layer.node_of_rank) ++node_begin_[node + 1];
  for (int n = 0; n < layer.nodes; ++n) node_begin_[n + 1] += node_begin_[n];
  std::copy(order_.begin(), order_.end(), by_time_.begin());
  const auto& times = loads_->times();
  // The few that shed are sorted by insertion: std::stable_sort would allocate.
  for (int i = 1; i < layer.ranks; ++i) {
    const int rank = by_time_[i];
    int at = i;
    for (; at > 0 && times[by_time_[at - 1]] < times[rank]; --at) by_time_[at] = by_time_[at - 1];
    by_time_[at] = rank;
  }

  item_of_rank_.assign(layer.ranks + 1, 0);
  items_.resize(items.size());
  for (const DispatchItem& item : items) ++item_of_rank_[item.rank + 1];
  for (int r = 0; r < layer.ranks; ++r) item_of_rank_[r + 1] += item_of_rank_[r];
  for (std::size_t i = items.size(); i-- > 0;) items_[--item_of_rank_[items[i].rank + 1]] = static_cast<int>(i);
  // Each start was counted down from its end: what was the start of rank r + 1 is that of rank r now.
  for (int r = 0; r < layer.ranks; ++r) item_of_rank_[r] = item_of_rank_[r + 1];
  item_of_rank_[layer.ranks] = static_cast<int>(items.size());
}

bool LeastLoaded::reach(std::int64_t target) {
  const auto& items = loads_->items();
  ++pass_;
  times_.assign(loads_->times().begin(), loads_->times().end());
  std::fill(arrivals_.begin(), arrivals_.end(), 0);
  left_.resize(items.size());
  for (std::size_t i = 0; i < order_.size(); ++i) {
    const std::int64_t room = target - times_[order_[i]] - loads_->costs().expert;
    room_[i] = most_arrivals_ > 0 ? room : 0;
  }
  chunks_.clear();
  draws_.clear();
  for (std::size_t i = 0; i < items.size(); ++i) {
    left_[i] = items[i].rows;
    // A rank that alone holds an expert is never a helper for it.
    if (shared(items[i].expert)) present_[cell(items[i].rank, items[i].expert)] = pass_;
  }
  for (const int rank : by_time_) {
    if (loads_->times()[rank] <= target) break;
    const auto first = items_.begin() + item_of_rank_[rank], last = items_.begin() + item_of_rank_[rank + 1];
    if (sorted_[rank] == 0) {
      std::sort(first, last,
                [&](int a, int b) { return items[a].rows != items[b].rows ? items[a].rows > items[b].rows : a < b; });
      sorted_[rank] = 1;
    }
    const std::vector<int>::const_iterator tight = tight_first_ ? tightest(first, last, times_[rank] - target) : first;
    if (first != last) shed(*tight, target);
    for (auto i = first; i != last && times_[rank] > target; ++i) {
      if (i != tight) shed(*i, target);
    }
    if (times_[rank] > target) return false;
  }
  reached_ = *std::max_element(times_.begin(), times_.end());
  return reached_ <= target;
}

std::vector<int>::const_iterator LeastLoaded::tightest(std::vector<int>::const_iterator first,
                                                       std::vector<int>::const_iterator last,
                                                       std::int64_t excess) const {
  const DispatchCosts& costs = loads_->costs();
  auto best = first;
  for (auto i = first; i != last; ++i) {
    const std::int64_t saving = loads_->items()[*i].rows * costs.row + costs.expert - costs.weights_inside;
    if (saving >= excess) best = i;
  }
  return best;
}

void LeastLoaded::shed(int index, std::int64_t target) {
  const DispatchItem& item = loads_->items()[index];
  loads_->from_nodes(item, pool_);
  owners_own_ = loads_->from_rank(item, item.rank);
  pool_[loads_->layer().node_of_rank[item.rank]] -= owners_own_;
  ++sheddings_;
  const std::size_t before = chunks_.size();
  while (times_[item.rank] > target && left_[index] > 0) {
    const int helper = best_helper(item, target);
    if (helper < 0) break;
    helped_[helper] = sheddings_;
    room_[place_[helper]] = 0;
    Offer best = offer(item, helper, target);
    if (best.total == left_[index]) best.saving += loads_->costs().expert;
    if (best.total == 0 || best.saving <= 0) {
      set_room(helper, target);
      break;
    }
    take(index, helper, best);
  }
  for (std::size_t c = before; c < chunks_.size(); ++c) set_room(chunks_[c].rank, target);
}

void LeastLoaded::set_room(int rank, std::int64_t target) {
  const bool full = arrivals_[rank] >= most_arrivals_;
  room_[place_[rank]] = full ? 0 : target - times_[rank] - loads_->costs().expert;
}

/// One that has the weights: the one with most room.
int LeastLoaded::best_owner(const DispatchItem& item, std::int64_t target) const {
  int best = -1;
  std::int64_t most = loads_->costs().expert + loads_->costs().row - 1;
  for (const int rank : order_) {
    const std::int64_t room = target - times_[rank];
    if (room <= most || rank == item.rank || helped_[rank] == sheddings_ || !has(rank, item.expert)) continue;
    best = rank;
    most = room;
  }
  return best;
}

int LeastLoaded::best_helper(const DispatchItem& item, std::int64_t target) {
  if (shared(item.expert) || loads_->any_cached()) {
    if (const int owner = best_owner(item, target); owner >= 0) return owner;
  }
  const DispatchCosts& costs = loads_->costs();
  const int node = loads_->layer().node_of_rank[item.rank];
  const int begin = node_begin_[node], end = node_begin_[node + 1], all = loads_->layer().ranks;
  const std::int64_t excess = times_[item.rank] - target;
  const auto most_room = [&](int first, int last) {
    int best = first;
    for (int i = first + 1; i < last; ++i) best = room_[i] > room_[best] ? i : best;
    return first < last ? best : -1;
  };
  // Of those that can take all, the one with most of the rows already.
  const auto most_rows = [&](int first, int last, std::int64_t needed, int best) {
    std::int64_t most = loads_->from_rank(item, order_[best]);
    for (int i = first; i < last; ++i) {
      if (room_[i] < needed) continue;
      const std::int64_t own = loads_->from_rank(item, order_[i]);
      if (own > most || (own == most && room_[i] > room_[best])) {
        best = i;
        most = own;
      }
    }
    return best;
  };
  const int near = most_room(begin, end);
  const std::int64_t near_needs = excess + 2 * costs.weights_inside;  // both ranks pay for the weights' way
  if (room_[near] >= near_needs && room_[near] >= costs.weights_inside + costs.row) {
    return order_[most_rows(begin, end, near_needs, near)];
  }
  const int low = most_room(0, begin), high = most_room(end, all);
  const int far = low < 0 || (high >= 0 && room_[high] > room_[low]) ? high : low;
  const std::int64_t far_needs = excess + 2 * costs.weights_between;
  if (far >= 0 && room_[far] >= far_needs && room_[far] >= costs.weights_between + costs.row) {
    const int best = most_rows(0, begin, far_needs, far);
    return order_[most_rows(end, all, far_needs, best)];
  }
  const std::int64_t near_room = room_[near] - costs.weights_inside;
  const std::int64_t far_room = far < 0 ? 0 : room_[far] - costs.weights_between;
  if (std::max(near_room, far_room) < costs.row) return -1;
  return order_[near_room >= far_room ? near : far];
}

int LeastLoaded::sender(const DispatchItem& item, int helper) const {
  const DispatchLayer& layer = loads_->layer();
  if (!shared(item.expert)) return item.rank;
  int best = item.rank;
  for (const int rank : order_) {
    if (layer.held[cell(rank, item.expert)] == 0) continue;
    const bool near = loads_->same_node(rank, helper), best_near = loads_->same_node(best, helper);
    if (near != best_near ? near : times_[rank] < times_[best]) best = rank;
  }
  return best;
}

LeastLoaded::Offer LeastLoaded::offer(const DispatchItem& item, int helper, std::int64_t target) const {
  const DispatchCosts& costs = loads_->costs();
  const int owner = item.rank, node = loads_->layer().node_of_rank[helper];
  const int owners_node = loads_->layer().node_of_rank[owner];
  const bool near = node == owners_node;
  Offer offer;
  std::int64_t room = target - times_[helper];
  std::int64_t excess = times_[owner] - target;
  const bool some_have = shared(item.expert) || loads_->any_cached();
  // Where one rank holds an expert, another has rows of it only by the shedding in hand, and helps once.
  if (!shared(item.expert) || present_[cell(helper, item.expert)] != pass_) offer.cost += costs.expert;
  if (!some_have || !has(helper, item.expert)) {
    offer.weights_from = sender(item, helper);
    if (times_[offer.weights_from] + loads_->weights_way(offer.weights_from, helper) > target) {
      offer.weights_from = owner;
    }
    offer.cost += loads_->weights_way(offer.weights_from, helper);
    if (offer.weights_from == owner) offer.saving -= loads_->weights_way(owner, helper);
  }
  room -= offer.cost;
  excess -= offer.saving;
  std::int64_t others = 0;
  for (int n = 0; n < loads_->layer().nodes; ++n) others += n == node || n == owners_node ? 0 : pool_[n];
  const std::int64_t own = std::min(loads_->from_rank(item, helper), pool_[node]);
  const std::array<std::int64_t, Offer::sources> there{own, pool_[node] - own, others, near ? 0 : pool_[owners_node],
                                                       owners_own_};
  const std::int64_t way = near ? costs.row_inside : costs.row_between;
  const std::array<std::int64_t, Offer::sources> pays{0, costs.row_inside, costs.row_between, costs.row_between, way};
  const std::array<std::int64_t, Offer::sources> saves{way, way, costs.row_between, costs.row_inside, 0};
  for (std::size_t s = 0; s < there.size() && excess > 0; ++s) {
    const std::int64_t cost = costs.row + pays[s], saving = costs.row + saves[s];
    std::int64_t rows = there[s];
    if (rows * cost > room) rows = room / cost;
    if (rows * saving > excess) rows = std::min(rows, (excess + saving - 1) / saving);
    if (rows <= 0) {
      if (there[s] > 0) break;
      continue;
    }
    offer.rows[s] = rows;
    offer.total += rows;
    offer.cost += rows * cost;
    offer.saving += rows * saving;
    room -= rows * cost;
    excess -= rows * saving;
    if (rows < there[s]) break;
  }
  return offer;
}

void LeastLoaded::draw(int node, std::int64_t rows) {
  if (rows == 0) return;
  if (node >= 0) pool_[node] -= rows;
  draws_.push_back({node, rows});
}

void LeastLoaded::take(int index, int helper, const Offer& offer) {
  const DispatchItem& item = loads_->items()[index];
  const auto& node_of_rank = loads_->layer().node_of_rank;
  const int node = node_of_rank[helper], owners_node = node_of_rank[item.rank];
  times_[helper] += offer.cost;
  times_[item.rank] -= offer.saving;
  left_[index] -= offer.total;
  if (shared(item.expert)) present_[cell(helper, item.expert)] = pass_;
  if (offer.weights_from >= 0) {
    if (offer.weights_from != item.rank) times_[offer.weights_from] += loads_->weights_way(offer.weights_from, helper);
    if (shared(item.expert)) arrived_[cell(helper, item.expert)] = pass_;
    ++arrivals_[helper];
  }
  const auto first = static_cast<int>(draws_.size());
  pool_[node] -= offer.rows[Offer::own];
  draw(node, offer.rows[Offer::node]);
  std::int64_t others = offer.rows[Offer::other_nodes];
  for (int n = 0; others > 0; ++n) {
    if (n == node || n == owners_node) continue;
    const std::int64_t rows = std::min(others, pool_[n]);
    draw(n, rows);
    others -= rows;
  }
  draw(owners_node, offer.rows[Offer::owners_node]);
  draw(-1, offer.rows[Offer::owner]);
  owners_own_ -= offer.rows[Offer::owner];
  chunks_.push_back(
      {index, helper, offer.rows[Offer::own], first, static_cast<int>(draws_.size()) - first, offer.weights_from});
}

}  // namespace coterie
