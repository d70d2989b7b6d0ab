#include "placement/dispatch/llep.hpp"

#include "placement/dispatch/part_writer.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace coterie {
namespace {

/// The rows of both [a, b) and [from, to).
std::int64_t common(std::int64_t a, std::int64_t b, std::int64_t from, std::int64_t to) {
  return std::max<std::int64_t>(0, std::min(b, to) - std::max(a, from));
}

}  // namespace

void Llep::reserve(const DispatchLayer& layer) {
  const auto experts = static_cast<std::size_t>(layer.experts), ranks = static_cast<std::size_t>(layer.ranks);
  owner_.reserve(experts);
  first_owned_.reserve(ranks);
  next_owned_.reserve(experts);
  native_.reserve(ranks);
  load_.reserve(ranks);
  least_.reserve(ranks);
  listed_.reserve(ranks);
  by_node_.reserve(ranks);
  list_.reserve(experts);
  first_chunk_.reserve(experts);
  chunks_.reserve(2 * experts + ranks);  // each ends an expert, or a rank's room
  shares_.reserve(ranks);
  share_of_rank_.reserve(ranks);
  first_row_.reserve(layer.nodes + 1);
  leave_.reserve(layer.nodes);
  come_.reserve(layer.nodes);
  times_.reserve(ranks);
  arrivals_.reserve(ranks);
  from_place_.reserve(layer.nodes + 1);
  near_.reserve(layer.nodes);
  parts_.resize(4 * ranks + 1);  // each ends a source's rows, or what a rank gets: its own, its node's, the others'
}

bool Llep::solve(DispatchLoads& loads, const DispatchOptions& options) {
  const DispatchLayer& layer = loads.layer();
  reserve(layer);
  loads_ = &loads;
  price_.reset();
  least_price_.reset();
  owner_.resize(layer.experts);
  next_owned_.resize(layer.experts);
  first_owned_.assign(layer.ranks, -1);
  native_.assign(layer.ranks, 0);
  std::int64_t sum = 0;
  for (int e = 0; e < layer.experts; ++e) {
    owner_[e] = layer.only_holder[e];
    if (owner_[e] < 0) {
      const std::vector<int>& place = loads.order().place_of_rank;
      const std::span<const int> holders = layer.shared.holders_of(layer.shared_index[e]);
      owner_[e] = *std::min_element(holders.begin(), holders.end(), [&](int a, int b) { return place[a] < place[b]; });
    }
    next_owned_[e] = std::exchange(first_owned_[owner_[e]], e);
    native_[owner_[e]] += loads.rows(e);
    sum += loads.rows(e);
  }
  const std::int64_t heaviest = *std::max_element(native_.begin(), native_.end());
  const double mean = static_cast<double>(sum) / layer.ranks;
  if (sum == 0 || static_cast<double>(heaviest) < options.llep_threshold * mean) return false;
  capacity_ = static_cast<std::int64_t>(options.llep_alpha * mean);
  min_rows_ = options.llep_min_rows;

  by_node_.resize(layer.ranks);
  const DispatchOrder& order = loads.order();
  from_place_.assign(order.node_begin.begin(), order.node_begin.end());
  for (int r = 0; r < layer.ranks; ++r) by_node_[from_place_[layer.node_of_rank[r]]++] = r;

  load_.resize(layer.ranks);
  least_.resize((layer.ranks + kBlock - 1) / kBlock);
  listed_.resize(layer.ranks);
  for (int p = 0; p < layer.ranks; ++p) {
    const int rank = order.ranks[p];
    listed_[rank] = native_[rank] > capacity_ ? 1 : 0;
    set_load(p, native_[rank]);
  }
  list_.clear();
  for (int r = 0; r < layer.ranks; ++r) {
    for (int e = listed_[r] != 0 ? first_owned_[r] : -1; e >= 0; e = next_owned_[e]) {
      list_.push_back(hottest_first(loads.rows(e), e));
    }
  }
  std::sort(list_.begin(), list_.end());
  first_chunk_.assign(layer.experts, -1);
  chunks_.clear();
  for (std::size_t i = 0; i < list_.size(); ++i) {
    const int e = index_of(list_[i]);
    const int owner = order.place_of_rank[owner_[e]];
    const std::int64_t rows = loads.rows(e), excess = std::min(rows, load_[owner] - capacity_);
    if (excess <= 0) continue;
    set_load(owner, load_[owner] - excess);
    first_chunk_[e] = static_cast<int>(chunks_.size());
    if (excess < rows) chunks_.push_back({e, owner_[e], 0, rows - excess});
    spill(rows - excess, rows, i + 1);
  }
  return !chunks_.empty();
}

void Llep::set_load(int place, std::int64_t load) {
  load_[place] = load;
  const auto first = load_.begin() + place / kBlock * kBlock, last = std::min(first + kBlock, load_.end());
  least_[place / kBlock] = static_cast<int>(std::min_element(first, last) - load_.begin());
}

/// The least-loaded rank has the most room: where a chunk doesn't fit there, it fits nowhere.
void Llep::spill(std::int64_t from, std::int64_t to, std::size_t next) {
  const std::vector<int>& ranks = loads_->order().ranks;
  const int expert = index_of(list_[next - 1]), owner = loads_->order().place_of_rank[owner_[expert]];
  const std::int64_t owners = load_[owner];
  set_load(owner, std::numeric_limits<std::int64_t>::max());  // it takes none, unless it is alone
  while (from < to) {
    int taker = least_.front();
    for (const int place : least_) taker = load_[place] < load_[taker] ? place : taker;
    const std::int64_t left = to - from, chunk = std::min(left, capacity_ - load_[taker]);
    const bool fits = chunk > 0 && (chunk >= min_rows_ || chunk == left);
    const std::int64_t rows = fits ? chunk : left;
    if (taker != owner) set_load(taker, load_[taker] + rows);
    chunks_.push_back({expert, ranks[taker], from, from + rows});
    if (load_[taker] > capacity_) list_later(ranks[taker], next);
    from += rows;
  }
  set_load(owner, owners);
}

/// A rank beyond its capacity gives of its own experts, too, of those that are still to come.
void Llep::list_later(int rank, std::size_t next) {
  if (std::exchange(listed_[rank], 1) != 0) return;
  const std::uint64_t last = list_[next - 1];
  for (int e = first_owned_[rank]; e >= 0; e = next_owned_[e]) {
    const std::uint64_t key = hottest_first(loads_->rows(e), e);
    const auto later = list_.begin() + static_cast<std::ptrdiff_t>(next);
    if (key > last) list_.insert(std::upper_bound(later, list_.end(), key), key);
  }
}

std::span<const DispatchPart> Llep::chunks(int expert) const {
  std::size_t first = first_chunk_[expert], last = first;
  while (last < chunks_.size() && chunks_[last].expert == expert) ++last;
  return std::span(chunks_).subspan(first, last - first);
}

void Llep::share(int expert, Rows which) {
  const DispatchLayer& layer = loads_->layer();
  shares_.clear();
  share_of_rank_.assign(layer.ranks, -1);
  first_row_.assign(1, 0);
  for (int n = 0; n < layer.nodes; ++n) first_row_.push_back(first_row_.back() + loads_->node_rows(n, expert));
  for (const DispatchPart& chunk : chunks(expert)) {
    int& index = share_of_rank_[chunk.rank];
    if (index < 0) {
      index = static_cast<int>(shares_.size());
      shares_.push_back({chunk.rank});
    }
    const int node = layer.node_of_rank[chunk.rank];
    shares_[index].rows += chunk.to - chunk.from;
    shares_[index].near += common(chunk.from, chunk.to, first_row_[node], first_row_[node + 1]);
  }
  if (which == Rows::in_order) {
    std::int64_t begin = 0;
    for (const int r : by_node_) {
      const std::int64_t end = begin + loads_->count(r, expert);
      for (const DispatchPart& chunk : share_of_rank_[r] < 0 ? std::span<const DispatchPart>() : chunks(expert)) {
        if (chunk.rank == r) shares_[share_of_rank_[r]].own += common(chunk.from, chunk.to, begin, end);
      }
      begin = end;
    }
    return;
  }
  // Of a node's rows the more stay there, as those of its ranks that go elsewhere are exchanged for what these get from
  // elsewhere, by which nobody loses.
  leave_.assign(layer.nodes, 0);
  come_.assign(layer.nodes, 0);
  for (int n = 0; n < layer.nodes; ++n) leave_[n] = loads_->node_rows(n, expert);
  for (const Share& share : shares_) {
    leave_[layer.node_of_rank[share.rank]] -= share.near;
    come_[layer.node_of_rank[share.rank]] += share.rows - share.near;
  }
  for (Share& share : shares_) {
    std::int64_t &leave = leave_[layer.node_of_rank[share.rank]], &come = come_[layer.node_of_rank[share.rank]];
    const std::int64_t far = share.rows - share.near, kept = come <= leave ? far : leave * far / come;
    leave -= kept;
    come -= far;
    share.near += kept;
    share.own = std::min(share.near, loads_->count(share.rank, expert));
  }
}

std::int64_t Llep::time(std::int64_t rows, std::int64_t near, std::int64_t own) const {
  const DispatchCosts& costs = loads_->costs();
  return costs.expert + rows * costs.row + (rows - near) * costs.row_between + (near - own) * costs.row_inside;
}

std::int64_t Llep::whole(int expert) const {
  const int owner = owner_[expert];
  return time(loads_->rows(expert), loads_->node_rows(loads_->layer().node_of_rank[owner], expert),
              loads_->count(owner, expert));
}

const Llep::Price& Llep::price(Rows which) {
  if (!price_ || std::exchange(priced_, which) != which) find_price(which);
  return *price_;
}

const Llep::Price& Llep::least_price() {
  if (!least_price_) find_least_price();
  return *least_price_;
}

/// As if of each chunk all rows of its rank's node were there, and those at hand all the rank's own.
void Llep::find_least_price() {
  const DispatchLayer& layer = loads_->layer();
  const bool as_planned = layer.holders == layer.experts;  // what isn't divided
  times_.assign(loads_->planned_times().begin(), loads_->planned_times().end());
  if (!as_planned) times_.assign(layer.ranks, 0);
  share_of_rank_.assign(layer.ranks, -1);  // the expert that it has already
  Price& price = least_price_.emplace();
  int expert = -1;
  for (const DispatchPart& chunk : chunks_) {
    const int e = chunk.expert, owner = owner_[e];
    if (std::exchange(expert, e) != e && as_planned) times_[owner] -= whole(e);
    const std::int64_t rows = chunk.to - chunk.from;
    const std::int64_t near = std::min(rows, loads_->node_rows(layer.node_of_rank[chunk.rank], e));
    const std::int64_t own = chunk.rank == owner ? std::min<std::int64_t>(near, loads_->count(owner, e)) : near;
    const bool has = std::exchange(share_of_rank_[chunk.rank], e) == e;
    times_[chunk.rank] += time(rows, near, own) - (has ? loads_->costs().expert : 0);
    if (has || loads_->holds(chunk.rank, e)) continue;
    for (const int rank : {owner, chunk.rank}) times_[rank] += loads_->weights_way(owner, chunk.rank);
    ++price.transfers;
  }
  price.time = *std::max_element(times_.begin(), times_.end());
}

void Llep::find_price(Rows which) {
  const DispatchLayer& layer = loads_->layer();
  Price& price = price_.emplace();
  priced_ = which;
  const bool as_planned = layer.holders == layer.experts;  // what isn't divided
  times_.assign(loads_->planned_times().begin(), loads_->planned_times().end());
  if (!as_planned) times_.assign(layer.ranks, 0);
  arrivals_.assign(layer.ranks, 0);
  for (int e = 0; e < layer.experts; ++e) {
    const int owner = owner_[e];
    if (first_chunk_[e] < 0) {
      if (!as_planned && loads_->rows(e) > 0) times_[owner] += whole(e);
      continue;
    }
    if (as_planned) times_[owner] -= whole(e);
    share(e, which);
    for (const Share& share : shares_) {
      times_[share.rank] += time(share.rows, share.near, share.own);
      if (loads_->holds(share.rank, e)) continue;
      for (const int rank : {owner, share.rank}) times_[rank] += loads_->weights_way(owner, share.rank);
      ++price.transfers;
      ++arrivals_[share.rank];
    }
  }
  most_arrivals_ = *std::max_element(arrivals_.begin(), arrivals_.end());
  price.time = *std::max_element(times_.begin(), times_.end());
}

void Llep::write(Rows which, DispatchRows& rows, DispatchPlan& plan) {
  for (int e = 0; e < loads_->layer().experts; ++e) {
    if (loads_->rows(e) == 0) continue;
    if (first_chunk_[e] < 0) {
      plan.parts.push_back({e, owner_[e], 0, loads_->rows(e)});
      continue;
    }
    share(e, which);
    for (const Share& share : shares_) {
      if (!loads_->holds(share.rank, e)) plan.transfers.push_back({e, owner_[e], share.rank});
    }
    if (which == Rows::own_first) {
      write_own_first(e, plan.parts);
      continue;
    }
    rows.begin(*loads_, e);
    deal_in_order(e, rows);
    rows.write(*loads_, plan.parts);  // nothing is left
  }
}

void Llep::deal_in_order(int expert, DispatchRows& rows) const {
  auto source = by_node_.end();
  const auto all = chunks(expert);
  for (auto chunk = all.rbegin(); chunk != all.rend(); ++chunk) {  // as each is given the last rows that are left
    for (std::int64_t wanted = chunk->to - chunk->from; wanted > 0;) {
      const std::vector<int>& place = loads_->order().place_of_rank;
      while (rows.left(place[source[-1]]) == 0) --source;
      const std::int64_t some = std::min<std::int64_t>(wanted, rows.left(place[source[-1]]));
      rows.give(place[source[-1]], chunk->rank, some);
      wanted -= some;
    }
  }
}

/// A source's rows go to itself, then to those of its node in turn, then to the others in turn: to each as many as its
/// share says.
void Llep::write_own_first(int expert, std::vector<DispatchPart>& parts) {
  const DispatchLayer& layer = loads_->layer();
  near_.assign(layer.nodes, -1);
  for (std::size_t s = shares_.size(); s-- > 0;) {
    Share& share = shares_[s];
    share.rows -= share.near;
    share.near -= share.own;
    share.next = std::exchange(near_[layer.node_of_rank[share.rank]], static_cast<int>(s));
  }
  auto far = shares_.begin();
  PartWriter writer(parts_, expert);
  for (int r = 0; r < layer.ranks; ++r) {
    std::int64_t left = loads_->count(r, expert);
    const auto give = [&](int rank, std::int64_t& wanted) {
      const std::int64_t some = std::min(left, wanted);
      writer.add(rank, some);
      wanted -= some;
      left -= some;
    };
    if (share_of_rank_[r] >= 0) give(r, shares_[share_of_rank_[r]].own);
    for (int& near = near_[layer.node_of_rank[r]]; left > 0 && near >= 0;) {
      give(shares_[near].rank, shares_[near].near);
      if (left > 0) near = shares_[near].next;
    }
    while (left > 0) {
      give(far->rank, far->rows);
      if (left > 0) ++far;
    }
  }
  writer.append_to(parts);
}

}  // namespace coterie
