// What a rank can give to another, and giving it: the inner part of the search for the least loaded.
#include "placement/dispatch/least_loaded.hpp"

#include <algorithm>
#include <array>

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

LeastLoaded::Offer LeastLoaded::offer(int index, int helper, bool own_only) {
  const DispatchCosts& costs = loads_->costs();
  const DispatchItem& item = loads_->items()[index];
  const int owner = order_->place_of_rank[item.rank], node = node_[helper], owners_node = node_[owner];
  const bool near = node == owners_node;
  ++offers_;
  Offer offer;
  const Here& here = here_[cell(helper, item.expert)];
  if (here.rows != pass_) offer.cost += costs.expert;
  if (!has(helper, item.expert)) {
    offer.weights_from = sender(item, helper);
    if (offer.weights_from < 0) return {};
    offer.cost += weights_way(offer.weights_from, helper);
    if (offer.weights_from == owner) offer.saving -= weights_way(owner, helper);
  }
  std::int64_t room = target_ - times_[helper] - offer.cost;
  std::int64_t excess = times_[owner] - target_ - offer.saving;
  const std::int64_t* rows_of = pool(index);
  const std::int64_t own =
      std::min<std::int64_t>(own_[index][helper] - (here.took == pass_ ? taken(helper, index) : 0), rows_of[node]);
  const std::int64_t owners = near ? 0 : rows_of[owners_node];
  const std::int64_t others = left_[index] - owners_own_[index] - rows_of[node] - owners;
  const std::array<std::int64_t, Offer::sources> there{own, rows_of[node] - own, others, owners, owners_own_[index]};
  const std::int64_t way = near ? costs.row_inside : costs.row_between;
  const std::array<std::int64_t, Offer::sources> pays{0, costs.row_inside, costs.row_between, costs.row_between, way};
  const std::array<std::int64_t, Offer::sources> saves{way, way, costs.row_between, costs.row_inside, 0};
  for (std::size_t s = 0; s < (own_only ? 1 : there.size()) && excess > 0; ++s) {
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
  if (offer.total == left_[index]) offer.saving += costs.expert;
  offer.done = excess <= 0 || offer.total == left_[index];
  if (offer.saving > 0) offer.price = offer.cost * kUnit / offer.saving;
  return offer;
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
