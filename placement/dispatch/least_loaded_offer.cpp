// What a rank can give to another, and giving it: the inner part of the search for the least loaded.
#include "placement/dispatch/least_loaded.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

namespace coterie {

int LeastLoaded::sender(const DispatchItem& item, int helper) const {
  const int owner = order_->place_of_rank[item.rank];
  const auto may_send = [&](int p) {  // its own turn to give may be still to come
    const bool gives_later = base_[p] > target_ && gave_[p] != pass_;
    return p == owner || gives_later || times_[p] + weights_way(p, helper) <= target_;
  };
  if (const int only = loads_->layer().only_holder[item.expert]; only >= 0) {
    return may_send(order_->place_of_rank[only]) ? order_->place_of_rank[only] : -1;
  }
  int best = -1;
  for (int p = 0; p < ranks_; ++p) {
    if (loads_->layer().held[cell(order_->ranks[p], item.expert)] == 0) continue;
    if (!may_send(p)) continue;
    const bool near = node_[p] == node_[helper], best_near = best >= 0 && node_[best] == node_[helper];
    if (best < 0 || (near != best_near ? near : times_[p] < times_[best])) best = p;
  }
  return best;
}

std::int32_t LeastLoaded::taken(int place, int item) const {
  const Taken& taken = taken_[cell(place, item)];
  return taken.pass == pass_ ? taken.rows : 0;
}

bool LeastLoaded::begin_offer(int index, int helper, Offer& offer) {
  const DispatchCosts& costs = loads_->costs();
  const DispatchItem& item = loads_->items()[index];
  const int owner = order_->place_of_rank[item.rank];
  if (here_[cell(helper, item.expert)].rows != pass_) offer.cost += costs.expert;
  if (has(helper, item.expert)) return true;
  offer.weights_from = sender(item, helper);
  if (offer.weights_from < 0) return false;
  offer.cost += weights_way(offer.weights_from, helper);
  if (offer.weights_from == owner) offer.saving -= weights_way(owner, helper);
  return true;
}

LeastLoaded::Sources LeastLoaded::sources(int index, int helper) {
  const DispatchCosts& costs = loads_->costs();
  const DispatchItem& item = loads_->items()[index];
  const int node = node_[helper], owners_node = node_[order_->place_of_rank[item.rank]];
  const bool near = node == owners_node, took = here_[cell(helper, item.expert)].took == pass_;
  const std::int64_t* rows_of = pool(index);
  const std::int64_t own =
      std::min<std::int64_t>(own_[index][helper] - (took ? taken(helper, index) : 0), rows_of[node]);
  const std::int64_t owners = near ? 0 : rows_of[owners_node];
  const std::int64_t others = left_[index] - owners_own_[index] - rows_of[node] - owners;
  const std::int64_t row = costs.row, inside = costs.row_inside, between = costs.row_between;
  const std::int64_t way = near ? inside : between;
  return {{own, rows_of[node] - own, others, owners, owners_own_[index]},
          {row, row + inside, row + between, row + between, row + way},
          {row + way, row + way, row + between, row + inside, row}};
}

LeastLoaded::Offer LeastLoaded::offer(int index, int helper, bool own_only) {
  ++offers_;
  Offer offer;
  if (!begin_offer(index, helper, offer)) return {};
  std::int64_t room = target_ - times_[helper] - offer.cost;
  std::int64_t excess = times_[order_->place_of_rank[loads_->items()[index].rank]] - target_ - offer.saving;
  const Sources from = sources(index, helper);
  for (std::size_t s = 0; s < (own_only ? 1 : from.there.size()) && excess > 0; ++s) {
    const std::int64_t cost = from.costs[s], saving = from.savings[s];
    std::int64_t rows = from.there[s];
    if (rows * cost > room) rows = room / cost;
    if (rows * saving > excess) rows = std::min(rows, (excess + saving - 1) / saving);
    if (rows <= 0) {
      if (from.there[s] > 0) break;
      continue;
    }
    offer.add(s, rows, cost, saving);
    room -= rows * cost;
    excess -= rows * saving;
    if (rows < from.there[s]) break;
  }
  if (offer.total == left_[index]) offer.saving += loads_->costs().expert;
  offer.done = excess <= 0 || offer.total == left_[index];
  if (offer.saving > 0) offer.price = offer.cost * kUnit / offer.saving;
  return offer;
}

/// `rows` of the item's, first those of the sources that come first, of each at most so many.
void LeastLoaded::give_rows(int index, int helper, std::int64_t rows, const Limits& most) {
  Offer offer;
  if (rows <= 0 || !begin_offer(index, helper, offer)) return;
  const Sources from = sources(index, helper);
  for (std::size_t s = 0; s < from.there.size(); ++s) {
    const std::int64_t of_source = std::min({rows - offer.total, from.there[s], most[s]});
    if (of_source > 0) offer.add(s, of_source, from.costs[s], from.savings[s]);
  }
  if (offer.total == 0) return;
  if (offer.total == left_[index]) offer.saving += loads_->costs().expert;
  take(index, helper, offer);
}

void LeastLoaded::follow_llep() {
  begin_pass(std::numeric_limits<std::int64_t>::max() / 2);
  const auto chunks = llep_.chunks();
  for (std::size_t first = 0, last = 0; first < chunks.size(); first = last) {
    while (last < chunks.size() && chunks[last].expert == chunks[first].expert) ++last;
    follow_llep(chunks.subspan(first, last - first));
  }
  if (*std::max_element(arrivals_.begin(), arrivals_.end()) <= most_arrivals_) keep_if_best();
}

/// Of one expert: rows that lie at their helper, then each helper's share of its node's, then the others.
void LeastLoaded::follow_llep(std::span<const DispatchPart> chunks) {
  constexpr std::int64_t kAll = std::numeric_limits<std::int64_t>::max();
  const int expert = chunks.front().expert;
  const auto& items = loads_->items();
  const auto item = std::lower_bound(items.begin(), items.end(), expert,
                                     [](const DispatchItem& a, int number) { return a.expert < number; });
  const auto index = static_cast<int>(item - items.begin());
  touch(index);
  wanted_.assign(ranks_, 0);
  wanted_of_node_.assign(nodes_, 0);
  for (const DispatchPart& chunk : chunks) wanted_[order_->place_of_rank[chunk.rank]] += chunk.to - chunk.from;
  const int owner = order_->place_of_rank[llep_.owner(expert)];
  const std::int64_t stays = std::exchange(wanted_[owner], 0);
  const auto give_all = [&](const auto& most) {
    for (int p = 0; p < ranks_; ++p) {
      const std::int64_t before = left_[index];
      if (wanted_[p] > 0) give_rows(index, p, wanted_[p], most(p));
      wanted_[p] -= before - left_[index];
    }
  };
  give_all([&](int) { return Limits{kAll}; });
  for (int p = 0; p < ranks_; ++p) wanted_of_node_[node_[p]] += wanted_[p];
  wanted_of_node_[node_[owner]] += std::max<std::int64_t>(0, stays - owners_own_[index]);
  pool_then_.assign(pool(index), pool(index) + nodes_);
  give_all([&](int p) {
    return Limits{0, std::min(wanted_[p], pool_then_[node_[p]] * wanted_[p] /
                                              std::max<std::int64_t>(1, wanted_of_node_[node_[p]]))};
  });
  give_all([&](int) { return Limits{kAll, kAll, kAll, kAll, kAll}; });
}

void LeastLoaded::draw(int item, int node, std::int64_t rows) {
  if (rows == 0) return;
  if (node >= 0) pool(item)[node] -= rows;
  draws_.push_back({node, rows});
}

void LeastLoaded::take(int index, int helper, const Offer& offer) {
  const DispatchItem& item = loads_->items()[index];
  const int owner = order_->place_of_rank[item.rank], node = node_[helper], owners_node = node_[owner];
  times_[helper] += offer.cost;
  times_[owner] -= offer.saving;
  left_[index] -= offer.total;
  Here &here = here_[cell(helper, item.expert)], &there = here_[cell(owner, item.expert)];
  here.rows = here.took = pass_;
  if (left_[index] == 0 && there.took != pass_) there.rows = 0;
  if (offer.weights_from >= 0) {
    here.weights = pass_;
    ++arrivals_[helper];
    if (offer.weights_from != owner) {
      times_[offer.weights_from] += weights_way(offer.weights_from, helper);
      set_room(offer.weights_from);
    }
  }
  taken_[cell(helper, index)] = {pass_, taken(helper, index) + static_cast<std::int32_t>(offer.rows[Offer::own])};
  pool(index)[node] -= offer.rows[Offer::own];
  owners_own_[index] -= offer.rows[Offer::owner];
  const auto first = static_cast<int>(draws_.size());
  draw(index, node, offer.rows[Offer::node]);
  std::int64_t others = offer.rows[Offer::other_nodes];
  for (int n = 0; others > 0; ++n) {
    if (n == node || n == owners_node) continue;
    const std::int64_t rows = std::min(others, pool(index)[n]);
    draw(index, n, rows);
    others -= rows;
  }
  draw(index, owners_node, offer.rows[Offer::owners_node]);
  draw(index, -1, offer.rows[Offer::owner]);
  chunks_.push_back({index, order_->ranks[helper], offer.rows[Offer::own], first,
                     static_cast<int>(draws_.size()) - first,
                     offer.weights_from < 0 ? -1 : order_->ranks[offer.weights_from]});
  set_room(helper);
}

}  // namespace coterie
