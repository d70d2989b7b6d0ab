#include "placement/dispatch/least_loaded.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <utility>

namespace coterie {
namespace {

constexpr std::size_t kTiny = 256;  // items times ranks, among which all ways are tried
constexpr int kMostOffers = 30'000, kMostOffersOfSome = 1500, kMostOffersOfMany = 150,
              kMostOffersOfWork = 300;  // until no other way is tried
constexpr std::int64_t kNear = 4096;    // a part of the time: nearer to the floor nothing more is tried
constexpr std::int64_t kNearMiss = 16;  // a part of the target: a pass that misses it by less may be good enough
constexpr std::int64_t kFirst = 64, kFinest = 8192, kCoarse = 64;  // parts of the time: steps of the search

}  // namespace

void LeastLoaded::clear() {
  best_chunks_.clear();
  best_draws_.clear();
  sent_copies_.clear();
}

std::size_t LeastLoaded::transfers() const {
  const auto sent = [](const DispatchChunk& chunk) { return chunk.weights_from >= 0; };
  return sent_copies_.size() + static_cast<std::size_t>(std::count_if(best_chunks_.begin(), best_chunks_.end(), sent));
}

/// A copy that has no rows in the end isn't made.
void LeastLoaded::send_copies() {
  const auto& items = loads_->items();
  sent_copies_.reserve(most_copies(loads_->layer()));
  for (std::size_t i = 0; i < items.size(); ++i) left_[i] = items[i].rows;
  ++pass_;
  const auto used = [&](int expert, int rank) -> std::uint32_t& {
    return here_[cell(order_->place_of_rank[rank], expert)].rows;
  };
  for (const DispatchChunk& chunk : best_chunks_) {
    left_[chunk.item] -= chunk.own;
    for (int d = chunk.first_draw; d < chunk.first_draw + chunk.draws; ++d) left_[chunk.item] -= best_draws_[d].rows;
    used(items[chunk.item].expert, chunk.rank) = pass_;
  }
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (left_[i] > 0) used(items[i].expert, items[i].rank) = pass_;
  }
  for (const DispatchCopy& copy : loads_->copies()) {
    if (copy.weights_from < 0) continue;
    if (used(copy.expert, copy.rank) == pass_) {
      sent_copies_.push_back(copy);
    } else {
      drop(copy);
    }
  }
}

void LeastLoaded::drop(const DispatchCopy& copy) {
  const std::int64_t way = loads_->weights_way(copy.weights_from, copy.rank);
  for (const int rank : {copy.rank, copy.weights_from}) best_times_[order_->place_of_rank[rank]] -= way;
  best_ = *std::max_element(best_times_.begin(), best_times_.end());
}

DispatchPlan::Stayed LeastLoaded::solve(DispatchLoads& loads, const DispatchOptions& options, Llep* rival) {
  using Stayed = DispatchPlan::Stayed;
  loads_ = &loads;
  most_arrivals_ = options.most_arrivals;
  ranks_ = loads.layer().ranks;
  nodes_ = loads.layer().nodes;
  clear();
  std::int64_t rows = 0;
  for (const DispatchItem& item : loads.items()) rows += item.rows;
  const std::int64_t sum = std::accumulate(loads.times().begin(), loads.times().end(), std::int64_t{0});
  const std::int64_t before = *std::max_element(loads.times().begin(), loads.times().end());
  best_ = before;
  if (ranks_ == 1 || rows == 0) return Stayed::balanced;
  const bool copies = copies_.may_pay(loads);
  const auto balanced = [&](std::int64_t all) { return before - all / ranks_ <= before / kFirst; };
  if (!copies && balanced(sum)) return Stayed::balanced;
  order_ = &loads.order();
  std::int64_t gain = 0;
  if (copies) {
    copies_.find(loads, most_arrivals_);
    gain = copies_.gain();
    if (balanced(sum - gain)) return Stayed::balanced;
  }
  least_ = rows * loads.costs().row / ranks_;
  offers_ = 0;
  found_ = false;
  floor_ = std::max(least_, (sum - gain) / ranks_);
  most_offers_ = ranks_ <= kFew ? kMostOffers : mostly_work() ? kMostOffersOfWork : kMostOffersOfMany;
  const auto ends_search = [&](Llep& plan) {
    const auto enough = [&](const Llep::Price& price) { return price.time < before && near_floor(price.time); };
    return enough(plan.least_price()) && enough(plan.price(Llep::Rows::own_first)) &&
           plan.most_arrivals() <= most_arrivals_;
  };
  if (rival == nullptr || !ends_search(*rival)) search_all(copies);
  return best_ < before ? Stayed::spilled : Stayed::not_worth_it;
}

void LeastLoaded::search_all(bool copied) {
  using First = Style::First;
  constexpr std::array<Style, 6> kStyles{{{First::hottest, false},
                                          {First::hottest, true},
                                          {First::cheapest, true},
                                          {First::tightest, false},
                                          {First::cheapest, false},
                                          {First::tightest, true}}};
  const bool few = ranks_ <= kFew;
  if (few && copied) copies_.sort();
  most_good_offers_ = most_offers_;
  const auto enough = [&] { return near_floor(best_) || tired(); };
  std::size_t made = 0;
  // All copies, none, then ever fewer.
  for (std::size_t round = 0, count = copied ? copies_.copies().size() : 0, fewer = count;; ++round) {
    loads_->spread(copied ? copies_.copies().first(count) : std::span<const DispatchCopy>());
    prepare();
    const bool tiny = few && loads_->items().size() * ranks_ <= kTiny;
    if (few && !tiny) most_good_offers_ = kMostOffersOfSome;
    for (std::size_t s = 0; s < (tiny ? kStyles.size() : few ? 2 : 1) && !enough(); ++s) {
      style_ = kStyles[s];
      if (search(std::accumulate(base_.begin(), base_.end(), std::int64_t{0}) / ranks_)) made = count;
    }
    if (fewer == 0 || (round > 0 && (!few || fewer < 2))) break;
    if (round == 0) {
      most_offers_ *= 2;
      most_good_offers_ *= 2;
    }
    if (enough() || (!few && good())) break;
    if (round > 0) fewer = fewer * 3 / 4;
    count = round == 0 ? 0 : fewer;
  }
  if (loads_->copies().size() != made) loads_->spread(copies_.copies().first(made));
  if (!loads_->copies().empty()) send_copies();
}

void LeastLoaded::prepare() {
  const DispatchLayer& layer = loads_->layer();
  const auto ranks = static_cast<std::size_t>(ranks_);
  const std::size_t most = layer.holders + most_copies(layer);  // items
  const std::size_t cells = layer.experts * ranks;
  node_.resize(ranks);
  base_.resize(ranks);
  room_.resize(ranks);
  roomiest_.resize(nodes_);
  roomiest_of_.resize(nodes_ / kBlock + 1);
  base_arrivals_.assign(ranks, 0);
  for (int i = 0; i < ranks_; ++i) {
    node_[i] = layer.node_of_rank[order_->ranks[i]];
    base_[i] = loads_->times()[order_->ranks[i]];
  }
  for (const DispatchCopy& copy : loads_->copies()) {
    base_arrivals_[order_->place_of_rank[copy.rank]] += copy.weights_from >= 0 ? 1 : 0;
  }
  if (here_.size() != cells || taken_.size() < most * ranks || gave_.size() != ranks || pool_.size() < most * nodes_ ||
      pass_ > std::numeric_limits<std::uint32_t>::max() / 2) {
    here_.assign(cells, {});
    taken_.assign(most * ranks, {});
    touched_.assign(most, 0);
    gave_.assign(ranks, 0);
    own_.resize(most);
    own_memory_.resize(most * ranks);
    ready_.reserve(cells);
    by_time_.reserve(ranks);
    known_.reserve(most);
    ready_at_.resize(cells);
    items_.reserve(most);
    keys_.reserve(most);
    sorting_.reserve(most);
    shared_.reserve(most);
    ready_begin_.resize(layer.experts);
    ready_end_.resize(layer.experts);
    left_.resize(most);
    owners_own_.resize(most);
    drawn_.resize(most);
    pool_.resize(most * nodes_);
    base_pool_.resize(most * nodes_);
    pass_ = 0;
  }
  const std::size_t chunks = 2 * (ranks + most);  // each fills a rank or ends an item, of own rows or of all
  for (auto* of : {&chunks_, &best_chunks_}) of->reserve(chunks);
  for (auto* of : {&draws_, &best_draws_}) of->reserve(4 * chunks);
  list_items();
}

void LeastLoaded::list_items() {
  const auto& items = loads_->items();
  by_time_.clear();
  for (int i = 0; i < ranks_; ++i) {
    if (base_[i] > least_) by_time_.push_back(i);
  }
  sort_by_time(std::accumulate(base_.begin(), base_.end(), std::int64_t{0}) / ranks_);
  sorted_.assign(ranks_, 0);
  known_.assign(items.size(), 0);
  known_experts_.assign(loads_->layer().experts, 0);
  ready_.clear();
  items_.resize(items.size());
  shared_.clear();
  const bool any_shared = loads_->layer().holders > loads_->layer().experts || !loads_->copies().empty();
  item_begin_.assign(ranks_ + 1, 0);
  for (const DispatchItem& item : items) ++item_begin_[order_->place_of_rank[item.rank]];
  std::inclusive_scan(item_begin_.begin(), item_begin_.end(), item_begin_.begin());
  for (std::size_t i = items.size(); i-- > 0;) {
    items_[--item_begin_[order_->place_of_rank[items[i].rank]]] = static_cast<int>(i);
    if (any_shared && loads_->shared(items[i].expert)) shared_.push_back(static_cast<int>(i));
  }
}

/// Those above `least` come first, the slowest of them before the others.
void LeastLoaded::sort_by_time(std::int64_t least) {
  const auto end = std::partition(by_time_.begin(), by_time_.end(), [&](int p) { return base_[p] > least; });
  std::sort(by_time_.begin(), end, [&](int a, int b) { return base_[a] != base_[b] ? base_[a] > base_[b] : a < b; });
  sorted_above_ = least;
}

bool LeastLoaded::attempt(std::int64_t target) {
  const bool reached = reach(target);
  keep_if_best();  // a plan, be it not the one that was asked for
  return reached;
}

void LeastLoaded::keep_if_best() {
  slowest_ = *std::max_element(times_.begin(), times_.end());
  if (slowest_ >= best_) return;
  found_ = true;
  best_ = slowest_;
  best_times_.assign(times_.begin(), times_.end());
  best_chunks_.swap(chunks_);
  best_draws_.swap(draws_);
}

bool LeastLoaded::mostly_work() const {
  return 4 * least_ > 3 * floor_;
}

bool LeastLoaded::near_floor(std::int64_t time) const {
  const bool free = loads_->costs().weights_inside + loads_->costs().expert < floor_ / kFinest;
  return time - floor_ <= time / (ranks_ <= kFew || free ? kNear : mostly_work() ? 256 : kFirst / 2);
}

bool LeastLoaded::good() const {
  return found_ && best_ - floor_ <= best_ / (ranks_ <= kFew ? kFirst / 2 : 4);
}

bool LeastLoaded::tired() const {
  return offers_ > (good() ? most_good_offers_ : most_offers_) || loads_->exhausted();
}

bool LeastLoaded::search(std::int64_t mean) {
  const std::int64_t before = best_, part = ranks_ <= kFew ? kFinest : mostly_work() ? 512 : kCoarse;
  std::int64_t low = least_;
  const auto reached = [&](std::int64_t target) {
    if (attempt(target)) return true;
    low = target + 1;
    return false;
  };
  if (found_ && !reached(best_ - best_ / kNear - 1) && best_ == before) return false;
  // Many solutions lie near the mean: from there up in steps that double, or as what is too much asks for.
  std::int64_t step = mean / (ranks_ <= kFew             ? kFirst
                              : loads_->copies().empty() ? 40
                                                         : kFirst / 4) +
                      1,
               target = std::max(low, mean + step);
  bool worked = best_ < before;
  while (target < best_ && !near_floor(best_)) {
    worked = reached(target);
    if (worked) break;
    step = std::max(2 * step, (slowest_ - target) / ranks_);
    target = low + step;
  }
  // Down to where all ranks are near the slowest one, and below by halves.
  while (best_ - low > best_ / part && !tired() && !near_floor(best_)) {
    std::int64_t even = 0;
    if (worked) even = std::accumulate(best_times_.begin(), best_times_.end(), std::int64_t{0}) / ranks_;
    if (worked && best_ - even <= best_ / part) break;
    target = even + (best_ - even) / 8;
    if (!worked || target < low) target = low + (best_ - low) / 2;
    worked = reached(target);
  }
  return best_ < before;
}

void LeastLoaded::begin_pass(std::int64_t target) {
  const auto& items = loads_->items();
  ++pass_;
  target_ = target;
  times_.assign(base_.begin(), base_.end());
  arrivals_.assign(base_arrivals_.begin(), base_arrivals_.end());
  chunks_.clear();
  draws_.clear();
  for (int p = 0; p < ranks_; ++p) {
    room_[p] = arrivals_[p] >= most_arrivals_ ? 0 : target - times_[p] - loads_->costs().expert;
  }
  for (int n = 0; n < nodes_; ++n) roomiest_[n] = order_->node_begin[n];
  for (int n = 0; n < nodes_; ++n) find_roomiest(n);
  for (const int i : shared_) here_[cell(order_->place_of_rank[items[i].rank], items[i].expert)].rows = pass_;
}

bool LeastLoaded::reach(std::int64_t target) {
  begin_pass(target);
  if (target < sorted_above_) sort_by_time(least_);
  const std::int64_t worth = std::min(best_ - 1, target + target / kNearMiss);
  for (const int place : by_time_) {
    if (base_[place] <= target) break;
    gave_[place] = pass_;
    give(place);
    if (times_[place] > std::max(worth, target) || (good() && tired()) || loads_->exhausted()) return false;
  }
  return std::all_of(times_.begin(), times_.end(), [&](std::int64_t time) { return time <= target; });
}

void LeastLoaded::give(int place) {
  const auto mine = std::span(items_).subspan(item_begin_[place], item_begin_[place + 1] - item_begin_[place]);
  if (mine.empty()) return;
  if (std::exchange(sorted_[place], 1) == 0) sort_by_rows(mine);
  for (const bool own_only : {true, false}) {
    if (own_only && !style_.own_first) continue;
    if (style_.first == Style::First::cheapest) {
      give_cheapest(mine, place, own_only);
      continue;
    }
    const std::int64_t excess = times_[place] - target_;
    const std::size_t first = style_.first == Style::First::tightest ? tightest(mine, excess) : 0;
    if (excess > 0) shed(mine[first], own_only);
    for (std::size_t i = 0; i < mine.size() && times_[place] > target_; ++i) {
      if (i != first) shed(mine[i], own_only);
    }
  }
}

/// The hottest first.
void LeastLoaded::sort_by_rows(std::span<int> items) {
  sorting_.clear();
  for (const int item : items) sorting_.push_back(hottest_first(loads_->items()[item].rows, item));
  std::sort(sorting_.begin(), sorting_.end());
  std::transform(sorting_.begin(), sorting_.end(), items.begin(), index_of);
}

void LeastLoaded::give_cheapest(std::span<const int> items, int place, bool own_only) {
  if (times_[place] <= target_) return;
  keys_.clear();
  for (const int item : items) {
    Offer best;
    touch(item);
    static_cast<void>(best_helper(item, own_only, best));
    keys_.emplace_back(best.price, item);
  }
  std::sort(keys_.begin(), keys_.end());
  for (const auto& [price, item] : keys_) {
    if (times_[place] > target_) shed(item, own_only);
  }
}

std::size_t LeastLoaded::tightest(std::span<const int> items, std::int64_t excess) const {
  const DispatchCosts& costs = loads_->costs();
  std::size_t best = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::int64_t saving = loads_->items()[items[i]].rows * costs.row + costs.expert - costs.weights_inside;
    if (saving >= excess) best = i;
  }
  return best;
}

void LeastLoaded::touch(int index) {
  if (touched_[index] == pass_) return;
  if (known_[index] == 0) know(index);
  loads_->spend(2);
  touched_[index] = pass_;
  left_[index] = loads_->items()[index].rows;
  drawn_[index] = 0;
  owners_own_[index] = own_[index][order_->place_of_rank[loads_->items()[index].rank]];
  const std::int64_t* from = base_pool_.data() + static_cast<std::ptrdiff_t>(index) * nodes_;
  std::copy(from, from + nodes_, pool(index));
}

void LeastLoaded::know(int index) {
  const DispatchItem& item = loads_->items()[index];
  const int owner = order_->place_of_rank[item.rank];
  known_[index] = 1;
  loads_->spend(loads_->shared(item.expert) ? 48 : 18);  // with what it takes to write its parts
  if (known_experts_[item.expert] == 0) know_expert(item.expert);
  const std::int32_t* sources = loads_->sources(item.expert);
  std::int64_t* from = base_pool_.data() + static_cast<std::ptrdiff_t>(index) * nodes_;
  own_[index] = sources;
  if (loads_->shared(item.expert)) {
    std::int32_t* own = own_memory_.data() + cell(0, index);
    const int* to = loads_->destinations(item.expert);
    for (int p = 0; p < ranks_; ++p) own[p] = to[p] == item.rank ? sources[p] : 0;
    own_[index] = own;
    for (int n = 0; n < nodes_; ++n) {
      std::int32_t sum = 0;
      for (int p = order_->node_begin[n]; p < order_->node_begin[n + 1]; ++p) sum += own[p];
      from[n] = sum;
    }
  } else {
    for (int n = 0; n < nodes_; ++n) from[n] = loads_->node_rows(n, item.expert);
  }
  from[node_[owner]] -= own_[index][owner];
}

void LeastLoaded::know_expert(int expert) {
  known_experts_[expert] = 1;
  std::uint8_t* at = ready_at_.data() + cell(0, expert);
  std::fill(at, at + ranks_, 0);
  ready_begin_[expert] = static_cast<int>(ready_.size());
  const auto add = [&](int rank) {
    const int place = order_->place_of_rank[rank];
    if (std::exchange(at[place], 1) == 0) ready_.push_back(place);
  };
  if (loads_->layer().only_holder[expert] < 0 || loads_->any_cached()) {
    loads_->for_each_holding(expert, add);
  } else {
    add(loads_->layer().only_holder[expert]);
  }
  for (int i = loads_->first_copy(expert); i >= 0; i = loads_->next_copy(i)) add(loads_->copies()[i].rank);
  ready_end_[expert] = static_cast<int>(ready_.size());
}

/// Whether rows of one rank may be worth the weights' way: an offer of them alone may be at most twice what it saves.
bool LeastLoaded::own_may_pay(int expert) const {
  if (loads_->shared(expert) || loads_->any_cached()) return true;
  const DispatchCosts& costs = loads_->costs();
  const std::int64_t rows = loads_->most_node_rows(expert);
  const auto pays = [&](std::int64_t way, std::int64_t weights) {
    return rows * (costs.row + 2 * way) >= 3 * weights + costs.expert;
  };
  return pays(costs.row_inside, costs.weights_inside) || pays(costs.row_between, costs.weights_between);
}

void LeastLoaded::shed(int index, bool own_only) {
  const int owner = order_->place_of_rank[loads_->items()[index].rank];
  if (own_only && !own_may_pay(loads_->items()[index].expert)) return;
  touch(index);
  if (own_only && owners_own_[index] == left_[index]) return;
  while (times_[owner] > target_ && left_[index] > 0 && !loads_->exhausted()) {
    Offer best;
    const int helper = best_helper(index, own_only, best);
    if (helper < 0) break;
    take(index, helper, best);
  }
}

}  // namespace coterie
