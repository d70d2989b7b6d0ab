#include "placement/dispatch/llep.hpp"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace coterie {

bool Llep::solve(const DispatchLoads& loads, const DispatchOptions& options, std::vector<DispatchPart>& parts,
                 std::vector<DispatchTransfer>& transfers) {
  const DispatchLayer& layer = loads.layer();
  rows_.resize(layer.experts);
  owner_.resize(layer.experts);
  by_rows_.resize(layer.experts);
  by_load_.resize(layer.ranks);
  assigned_.assign(layer.ranks, 0);
  pending_.assign(layer.ranks, 0);
  for (int e = 0; e < layer.experts; ++e) {
    const auto held = layer.held.begin() + static_cast<std::ptrdiff_t>(e) * layer.ranks;
    rows_[e] = loads.rows(e);
    owner_[e] = static_cast<int>(std::find(held, held + layer.ranks, 1) - held);
    pending_[owner_[e]] += rows_[e];
  }
  const std::int64_t sum = std::accumulate(rows_.begin(), rows_.end(), std::int64_t{0});
  const std::int64_t heaviest = *std::max_element(pending_.begin(), pending_.end());
  const double mean = static_cast<double>(sum) / layer.ranks;
  if (sum == 0 || static_cast<double>(heaviest) < options.llep_threshold * mean) return false;
  capacity_ = static_cast<std::int64_t>(options.llep_alpha * mean);

  std::iota(by_rows_.begin(), by_rows_.end(), 0);
  std::sort(by_rows_.begin(), by_rows_.end(),
            [&](int a, int b) { return rows_[a] != rows_[b] ? rows_[a] > rows_[b] : a < b; });
  const std::size_t before = parts.size();
  for (const int e : by_rows_) {
    if (rows_[e] == 0) break;
    const int owner = owner_[e];
    pending_[owner] -= rows_[e];
    const std::int64_t stays = std::clamp<std::int64_t>(capacity_ - load(owner), 0, rows_[e]);
    assigned_[owner] += stays;
    if (stays > 0) parts.push_back({e, owner, 0, stays});
    if (stays < rows_[e]) spill(e, owner, stays, options.llep_min_rows, parts);
  }
  std::sort(parts.begin() + static_cast<std::ptrdiff_t>(before), parts.end(),
            [](const DispatchPart& a, const DispatchPart& b) {
              return std::tie(a.expert, a.from) < std::tie(b.expert, b.from);
            });
  std::size_t kept = before;
  for (std::size_t i = before; i < parts.size(); ++i) {  // neighbours of one rank are one part
    const DispatchPart part = parts[i];
    if (kept > before && parts[kept - 1].expert == part.expert && parts[kept - 1].rank == part.rank) {
      parts[kept - 1].to = part.to;
    } else {
      parts[kept++] = part;
    }
  }
  parts.resize(kept);
  for (std::size_t i = before; i < parts.size(); ++i) {
    const auto& part = parts[i];
    const bool again =
        std::any_of(parts.begin() + static_cast<std::ptrdiff_t>(before), parts.begin() + static_cast<std::ptrdiff_t>(i),
                    [&](const DispatchPart& p) { return p.expert == part.expert && p.rank == part.rank; });
    if (!again && !loads.has(part.rank, part.expert))
      transfers.push_back({part.expert, owner_[part.expert], part.rank});
  }
  return true;
}

void Llep::spill(int expert, int owner, std::int64_t from, std::int64_t min_rows, std::vector<DispatchPart>& parts) {
  for (std::int64_t left = rows_[expert] - from; left > 0;) {
    by_load_.resize(assigned_.size());
    std::iota(by_load_.begin(), by_load_.end(), 0);
    by_load_.erase(by_load_.begin() + owner);
    if (by_load_.empty()) by_load_.push_back(owner);
    std::sort(by_load_.begin(), by_load_.end(),
              [&](int a, int b) { return load(a) != load(b) ? load(a) < load(b) : a < b; });
    int taker = by_load_.front();
    std::int64_t rows = left;
    for (const int rank : by_load_) {
      const std::int64_t chunk = std::min(left, capacity_ - load(rank));
      if (chunk <= 0 || (chunk < min_rows && chunk < left)) continue;
      taker = rank;
      rows = chunk;
      break;
    }
    assigned_[taker] += rows;
    parts.push_back({expert, taker, from, from + rows});
    from += rows;
    left -= rows;
  }
}

std::int64_t predicted_time(const DispatchLoads& loads, const std::vector<DispatchPart>& parts,
                            const std::vector<DispatchTransfer>& transfers, std::vector<std::int64_t>& times) {
  const DispatchLayer& layer = loads.layer();
  const DispatchCosts& costs = loads.costs();
  times.assign(layer.ranks, 0);
  int expert = -1, source = 0;
  std::int64_t end = 0;  // of the source's rows
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const DispatchPart& part = parts[i];
    if (part.expert != expert) {
      expert = part.expert;
      source = 0;
      end = loads.count(0, expert);
    }
    bool first = true;
    for (std::size_t j = i; first && j-- > 0 && parts[j].expert == expert;) first = parts[j].rank != part.rank;
    if (first) times[part.rank] += costs.expert;
    times[part.rank] += (part.to - part.from) * costs.row;
    for (std::int64_t at = part.from; at < part.to;) {
      while (end <= at) end += loads.count(++source, expert);
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
