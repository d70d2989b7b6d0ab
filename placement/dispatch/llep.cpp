#include "placement/dispatch/llep.hpp"

#include <algorithm>
#include <numeric>

namespace coterie {

void Llep::reserve(const DispatchLayer& layer) {
  const auto experts = static_cast<std::size_t>(layer.experts), ranks = static_cast<std::size_t>(layer.ranks);
  owner_.reserve(experts);
  by_rows_.reserve(experts);
  first_chunk_.reserve(experts);
  chunks_.reserve(2 * experts + ranks);  // each ends an expert, or a rank's room
  assigned_.reserve(ranks);
  pending_.reserve(ranks);
}

bool Llep::solve(const DispatchLoads& loads, const DispatchOptions& options, std::span<const int> ranks) {
  const DispatchLayer& layer = loads.layer();
  reserve(layer);
  owner_.resize(layer.experts);
  assigned_.assign(layer.ranks, 0);
  pending_.assign(layer.ranks, 0);
  std::int64_t sum = 0;
  for (int e = 0; e < layer.experts; ++e) {
    const auto held = layer.held.begin() + static_cast<std::ptrdiff_t>(e) * layer.ranks;
    owner_[e] = layer.only_holder[e] >= 0 ? layer.only_holder[e]
                                          : static_cast<int>(std::find(held, held + layer.ranks, 1) - held);
    pending_[owner_[e]] += loads.rows(e);
    sum += loads.rows(e);
  }
  const std::int64_t heaviest = *std::max_element(pending_.begin(), pending_.end());
  const double mean = static_cast<double>(sum) / layer.ranks;
  if (sum == 0 || static_cast<double>(heaviest) < options.llep_threshold * mean) return false;
  capacity_ = static_cast<std::int64_t>(options.llep_alpha * mean);

  by_rows_.clear();
  for (int e = 0; e < layer.experts; ++e) by_rows_.emplace_back(-loads.rows(e), e);
  std::sort(by_rows_.begin(), by_rows_.end());
  first_chunk_.assign(layer.experts, -1);
  chunks_.clear();
  for (const auto& [less, e] : by_rows_) {
    const std::int64_t rows = -less;
    const int owner = owner_[e];
    pending_[owner] -= rows;
    const std::int64_t stays = std::clamp<std::int64_t>(capacity_ - load(owner), 0, rows);
    assigned_[owner] += stays;
    if (stays == rows) continue;
    first_chunk_[e] = static_cast<int>(chunks_.size());
    if (stays > 0) chunks_.push_back({e, owner, 0, stays});
    spill(e, stays, rows, options.llep_min_rows, ranks);
  }
  return true;
}

/// The least-loaded rank has the most room: where a chunk doesn't fit there, it fits nowhere.
void Llep::spill(int expert, std::int64_t from, std::int64_t to, std::int64_t min_rows, std::span<const int> ranks) {
  const int owner = owner_[expert];
  while (from < to) {
    int taker = ranks.size() == 1 ? owner : -1;
    for (const int r : ranks) {
      if (r != owner && (taker < 0 || load(r) < load(taker))) taker = r;
    }
    const std::int64_t left = to - from, chunk = std::min(left, capacity_ - load(taker));
    const bool fits = chunk > 0 && (chunk >= min_rows || chunk == left);
    const std::int64_t rows = fits ? chunk : left;
    assigned_[taker] += rows;
    chunks_.push_back({expert, taker, from, from + rows});
    from += rows;
  }
}

void Llep::write(const DispatchLoads& loads, std::vector<DispatchPart>& parts,
                 std::vector<DispatchTransfer>& transfers) const {
  for (int e = 0; e < loads.layer().experts; ++e) {
    if (loads.rows(e) == 0) continue;
    if (first_chunk_[e] < 0) {
      parts.push_back({e, owner_[e], 0, loads.rows(e)});
      continue;
    }
    const auto first = static_cast<std::ptrdiff_t>(parts.size());
    for (auto chunk = chunks_.begin() + first_chunk_[e]; chunk != chunks_.end() && chunk->expert == e; ++chunk) {
      const auto at = [&](const DispatchPart& part) { return part.rank == chunk->rank; };
      const bool again = std::any_of(parts.begin() + first, parts.end(), at);
      if (again && parts.back().rank == chunk->rank) {
        parts.back().to = chunk->to;  // neighbours of one rank are one part
        continue;
      }
      parts.push_back(*chunk);
      if (!again && !loads.holds(chunk->rank, e)) transfers.push_back({e, owner_[e], chunk->rank});
    }
  }
}

std::int64_t predicted_time(DispatchLoads& loads, const std::vector<DispatchPart>& parts,
                            const std::vector<DispatchTransfer>& transfers, std::vector<std::int64_t>& times) {
  const DispatchLayer& layer = loads.layer();
  const DispatchCosts& costs = loads.costs();
  const std::vector<int>& place = loads.order().place_of_rank;
  times.assign(layer.ranks, 0);
  const std::int32_t* rows_of = nullptr;  // (places)
  int expert = -1, source = 0;
  std::int64_t end = 0;  // of the source's rows
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const DispatchPart& part = parts[i];
    if (part.expert != expert) {
      expert = part.expert;
      if (part.to == loads.rows(expert)) {  // all of it
        const std::int64_t near = loads.node_rows(layer.node_of_rank[part.rank], expert);
        times[part.rank] += costs.expert + part.to * costs.row + (part.to - near) * costs.row_between +
                            (near - loads.count(part.rank, expert)) * costs.row_inside;
        continue;
      }
      rows_of = loads.sources(expert);
      source = 0;
      end = rows_of[place[0]];
    }
    bool first = true;
    for (std::size_t j = i; first && j-- > 0 && parts[j].expert == expert;) first = parts[j].rank != part.rank;
    if (first) times[part.rank] += costs.expert;
    times[part.rank] += (part.to - part.from) * costs.row;
    for (std::int64_t at = part.from; at < part.to;) {
      while (end <= at) end += rows_of[place[++source]];
      const std::int64_t rows = std::min(end, part.to) - at;
      times[part.rank] += rows * loads.row_way(source, part.rank);
      at += rows;
    }
  }
  for (const DispatchTransfer& t : transfers) {
    times[t.from] += loads.weights_way(t.from, t.to);
    times[t.to] += loads.weights_way(t.from, t.to);
  }
  return *std::max_element(times.begin(), times.end());
}

}  // namespace coterie
