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
  for (int i = ready_begin_[item.expert]; i < ready_end_[item.expert]; ++i) {
    const int p = ready_[i];
    if (loads_->layer().held[cell(order_->ranks[p], item.expert)] == 0 || !may_send(p)) continue;
    const bool near = node_[p] == node_[helper], best_near = best >= 0 && node_[best] == node_[helper];
    if (best < 0 || (near != best_near ? near : times_[p] != times_[best] ? times_[p] < times_[best] : p < best)) {
      best = p;
    }
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
  loads_->spend(4);
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

void LeastLoaded::draw(int item, int node, std::int64_t rows) {
  if (rows == 0) return;
  if (node >= 0) pool(item)[node] -= rows;
  draws_.push_back({node, rows});
}

void LeastLoaded::draw_in_turn(int item, int but, std::int64_t rows) {
  if (rows == 0) return;
  draws_.push_back({DispatchDraw::kInTurn, rows});
  std::int64_t* left = pool(item);
  for (int& n = drawn_[item];; ++n) {
    if (n == but) continue;
    const std::int64_t some = std::min(rows, left[n]);
    left[n] -= some;
    rows -= some;
    if (rows == 0) return;
  }
}

void LeastLoaded::take(int index, int helper, const Offer& offer) {
  const DispatchItem& item = loads_->items()[index];
  const int owner = order_->place_of_rank[item.rank], node = node_[helper], owners_node = node_[owner];
  loads_->spend(8);
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
  draw_in_turn(index, owners_node, offer.rows[Offer::other_nodes]);
  draw(index, owners_node, offer.rows[Offer::owners_node]);
  draw(index, DispatchDraw::kOwner, offer.rows[Offer::owner]);
  chunks_.push_back({index, order_->ranks[helper], offer.rows[Offer::own], first,
                     static_cast<int>(draws_.size()) - first,
                     offer.weights_from < 0 ? -1 : order_->ranks[offer.weights_from]});
  set_room(helper);
}

void LeastLoaded::set_room(int place) {
  const bool full = arrivals_[place] >= most_arrivals_;
  room_[place] = full ? 0 : target_ - times_[place] - loads_->costs().expert;
  const int node = node_[place];
  if (place == roomiest_[node]) find_roomiest(node);  // room is only taken
}

void LeastLoaded::find_roomiest(int node) {
  const auto first = room_.begin() + order_->node_begin[node], last = room_.begin() + order_->node_begin[node + 1];
  roomiest_[node] = static_cast<int>(std::max_element(first, last) - room_.begin());
  const int block = node / kBlock, end = std::min((block + 1) * kBlock, nodes_);
  int best = roomiest_[block * kBlock];
  for (int n = block * kBlock + 1; n < end; ++n) best = room_[roomiest_[n]] > room_[best] ? roomiest_[n] : best;
  roomiest_of_[block] = best;
}

/// -1: there is no other node.
int LeastLoaded::roomiest_but(int node) const {
  int best = -1;
  const auto consider = [&](int place) {
    if (best < 0 || room_[place] > room_[best]) best = place;
  };
  for (int block = 0; block * kBlock < nodes_; ++block) {
    if (node / kBlock != block) {
      consider(roomiest_of_[block]);
      continue;
    }
    for (int n = block * kBlock; n < std::min((block + 1) * kBlock, nodes_); ++n) {
      if (n != node) consider(roomiest_[n]);
    }
  }
  return best;
}

int LeastLoaded::best_helper(int index, bool own_only, Offer& best) {
  const DispatchItem& item = loads_->items()[index];
  const int owner = order_->place_of_rank[item.rank];
  int helper = -1;
  const auto consider = [&](int place) {
    if (own_only && own_[index][place] == 0) return;
    const Offer offered = offer(index, place, own_only);
    if (offered.total == 0 || offered.saving <= 0 || (own_only && offered.price > 2 * kUnit)) return;
    if (helper >= 0 && !offered.better_than(best)) return;
    best = offered;
    helper = place;
  };
  if (ranks_ <= kFew) {
    for (int p = 0; p < ranks_; ++p) {
      if (p != owner && times_[p] < target_ && (room_[p] > 0 || has(p, item.expert))) consider(p);
    }
    return helper;
  }
  if (const int ready = least_loaded_ready(item.expert, owner); ready >= 0) consider(ready);
  if (helper >= 0) return helper;
  const DispatchCosts& costs = loads_->costs();
  const std::int64_t excess = times_[owner] - target_;
  const int node = node_[owner], near = roomiest_[node];
  const int begin = order_->node_begin[node], end = order_->node_begin[node + 1];
  if (near != owner && room_[near] > costs.weights_inside) {
    const std::int64_t room = excess + 2 * costs.weights_inside;  // both ranks pay for the weights' way
    consider(room_[near] < room ? near : with_most_rows(index, begin, end, room, near));
    if (helper >= 0 && best.done) return helper;
  }
  const int far = roomiest_but(node);
  if (far >= 0 && room_[far] > costs.weights_between) {
    const std::int64_t room = excess + 2 * costs.weights_between;
    consider(room_[far] < room ? far
                               : with_most_rows(index, end, ranks_, room, with_most_rows(index, 0, begin, room, far)));
  }
  return helper;
}

int LeastLoaded::least_loaded_ready(int expert, int but) {
  loads_->spend((ready_end_[expert] - ready_begin_[expert]) / 4);
  int ready = -1;
  for (int i = ready_begin_[expert]; i < ready_end_[expert]; ++i) {
    const int p = ready_[i];
    if (p == but || times_[p] >= target_) continue;
    if (ready < 0 || times_[p] < times_[ready] || (times_[p] == times_[ready] && p < ready)) ready = p;
  }
  return ready;
}

/// Of the places [begin, end) with so much room, and `best`.
int LeastLoaded::with_most_rows(int index, int begin, int end, std::int64_t room, int best) const {
  const std::int32_t* own = own_[index];
  std::int32_t most = own[best];
  for (int p = begin; p < end; ++p) {
    const std::int32_t rows = room_[p] >= room ? own[p] : -1;
    best = rows > most ? p : best;
    most = std::max(most, rows);
  }
  return best;
}

}  // namespace coterie
