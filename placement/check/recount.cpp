#include "placement/check/recount.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace coterie {
namespace {

constexpr int kAtHome = -1;  // a rank: wherever the token's home is

}  // namespace

RecountChoice choice_of(const Trace& trace, std::int64_t token, int layer, int top) {
  RecountChoice choice;
  const auto width = static_cast<std::size_t>(trace.top_k);
  const std::size_t used = top > 0 ? std::min<std::size_t>(top, width) : width;
  for (std::size_t c = 0; c < used; ++c) {
    const std::size_t at = (static_cast<std::size_t>(token) * trace.layers() + layer) * width + c;
    if (trace.experts[at] == Trace::kNoExpert) continue;
    choice.experts.push_back(trace.experts[at]);
    choice.gates.push_back(trace.weights.empty() ? 1.0 : static_cast<double>(trace.weights[at]));
  }
  return choice;
}

std::int64_t window_end(const WeightedTrace& window) {
  return window.count < 0 ? window.trace->tokens() : window.first + window.count;
}

double row_price(const Topology& topology, const RecountRules& rules, int from, int to) {
  if (from == to) return 0;
  int first = 0;
  for (const int ranks : topology.ranks_per_node) {
    const bool one = from >= first && from < first + ranks;
    const bool other = to >= first && to < first + ranks;
    if (one || other) return one && other ? rules.near_price : rules.far_price;
    first += ranks;
  }
  return rules.far_price;
}

Recount::Recount(const Plan& plan, std::span<const WeightedTrace> traces, RecountRules rules)
    : plan_(plan), traces_(traces), rules_(std::move(rules)), node_(plan.topology.node_of_rank()) {
  for (int l = 0; l < plan.layers(); ++l) {
    auto& layer = owners_.emplace_back(plan.experts);
    for (int s = 0; s < static_cast<int>(plan.physical_to_logical[l].size()); ++s) {
      const int expert = plan.physical_to_logical[l][s];
      if (expert != Plan::kEmptySlot) layer[expert].push_back(s / plan.slots_per_rank);
    }
    for (const auto& ranks : layer) replicated_ = replicated_ || ranks.size() > 1;
  }
  count_tables();
  rank_rows_.assign(plan.layers(), std::vector<double>(plan.ranks(), 0));
  if (replicated_ || rules_.objective == "traffic") count_rows();
  for (int l = 0; l < plan.layers(); ++l) {
    if (!replicated_) {
      std::fill(rank_rows_[l].begin(), rank_rows_[l].end(), 0.0);
      for (int e = 0; e < plan.experts; ++e) rank_rows_[l][owners_[l][e].front()] += load_[l][e];
    }
    const double all = std::accumulate(rank_rows_[l].begin(), rank_rows_[l].end(), 0.0);
    const double most = *std::max_element(rank_rows_[l].begin(), rank_rows_[l].end());
    heaviest_.push_back(all > 0 ? most * plan.ranks() / all : 1);
  }
}

void Recount::count_tables() {
  const auto experts = static_cast<std::size_t>(plan_.experts);
  pairs_.assign(plan_.layers() - 1, std::vector<double>(experts * experts, 0));
  load_.assign(plan_.layers(), std::vector<double>(experts, 0));
  for (const WeightedTrace& window : traces_) {
    const bool gates = rules_.by_gate && !window.trace->weights.empty();
    tokens_ += window.weight * static_cast<double>(window_end(window) - window.first);
    for (std::int64_t t = window.first; t < window_end(window); ++t) {
      RecountChoice before;
      for (int l = 0; l < plan_.layers(); ++l) {
        RecountChoice here = choice_of(*window.trace, t, l, rules_.top);
        for (std::size_t j = 0; j < here.experts.size(); ++j) {
          load_[l][here.experts[j]] += window.weight;
          for (std::size_t i = 0; i < before.experts.size(); ++i)
            pairs_[l - 1][before.experts[i] * experts + here.experts[j]] +=
                window.weight * (gates ? before.gates[i] * here.gates[j] : 1);
        }
        before = std::move(here);
      }
    }
  }
}

/// Every token from its home through the layers. Without replicas the mean over all homes, home by home only as far as
/// the domain tells them apart.
void Recount::count_rows() {
  const int ranks = plan_.ranks();
  std::vector<std::vector<int>> groups;
  if (rules_.domain == "node") {
    groups.resize(plan_.topology.nodes());
    for (int r = 0; r < ranks; ++r) groups[node_[r]].push_back(r);
  } else {
    groups.emplace_back(ranks);
    std::iota(groups[0].begin(), groups[0].end(), 0);
  }
  for (const WeightedTrace& window : traces_)
    for (std::int64_t t = window.first; t < window_end(window); ++t) {
      if (replicated_) {
        rows_ += walk(*window.trace, t, {static_cast<int>(t % ranks)}, window.weight);
        continue;
      }
      for (const auto& homes : groups)
        rows_ += walk(*window.trace, t, homes, window.weight * static_cast<double>(homes.size()) / ranks);
    }
}

double Recount::walk(const Trace& trace, std::int64_t token, const std::vector<int>& homes, double weight) {
  const auto price = [&](int from, int to) {
    if (from == to) return 0.0;
    if (from != kAtHome && to != kAtHome) return row_price(plan_.topology, rules_, from, to);
    double sum = 0;
    for (const int home : homes) sum += row_price(plan_.topology, rules_, home, from == kAtHome ? to : from);
    return sum / static_cast<double>(homes.size());
  };
  int resident = homes.size() == 1 ? homes[0] : kAtHome;
  const int home = resident;
  double rows = 0;
  for (int l = 0; l < plan_.layers(); ++l) {
    const RecountChoice choice = choice_of(trace, token, l, rules_.top);
    if (choice.experts.empty()) continue;
    std::vector<int> visited, times;
    std::vector<double> sums;
    for (std::size_t c = 0; c < choice.experts.size(); ++c) {
      const int rank = runs_on(l, choice.experts[c], resident, visited, token);
      const auto at = static_cast<std::size_t>(std::find(visited.begin(), visited.end(), rank) - visited.begin());
      if (at == visited.size()) {
        visited.push_back(rank);
        times.push_back(0);
        sums.push_back(0);
      }
      sums[at] += choice.gates[c];
      ++times[at];
      if (replicated_) rank_rows_[l][rank] += weight;
    }
    int landing = home;
    int best = -1;
    for (int v = 0; v < static_cast<int>(visited.size()); ++v) {
      const bool allowed =
          rules_.domain == "world" || (rules_.domain == "node" && node_[visited[v]] == node_[homes[0]]);
      if (!allowed) continue;
      if (best < 0 || std::pair(sums[v], times[v]) > std::pair(sums[best], times[best])) best = v;
    }
    if (best >= 0) landing = visited[best];
    for (const int rank : visited) rows += price(resident, rank) + price(rank, landing);
    if (best < 0) rows += price(resident, landing);
    resident = landing;
  }
  return rows * weight;
}

int Recount::runs_on(int layer, int expert, int resident, const std::vector<int>& visited, std::int64_t token) const {
  const std::vector<int>& owners = owners_[layer][expert];
  if (owners.size() == 1) return owners[0];
  if (std::find(owners.begin(), owners.end(), resident) != owners.end()) return resident;
  std::vector<int> left;
  for (const int r : owners)
    if (std::find(visited.begin(), visited.end(), r) != visited.end()) left.push_back(r);
  if (left.empty())
    for (const int r : owners)
      if (node_[r] == node_[resident]) left.push_back(r);
  if (left.empty()) left = owners;
  return left[(token / plan_.ranks()) % static_cast<std::int64_t>(left.size())];
}

double Recount::total_pairs() const {
  double total = 0;
  for (const auto& layer : pairs_) total = std::accumulate(layer.begin(), layer.end(), total);
  return total;
}

double Recount::kept_share() const {
  const auto nodes = static_cast<int>(plan_.topology.ranks_per_node.size());
  const double dearest = std::max(plan_.ranks() > nodes ? rules_.near_price : 0, nodes > 1 ? rules_.far_price : 0);
  const double total = total_pairs();
  if (total <= 0 || dearest <= 0) return 1;
  double kept = 0;
  for (std::size_t l = 0; l < pairs_.size(); ++l)
    for (int i = 0; i < plan_.experts; ++i)
      for (int j = 0; j < plan_.experts; ++j) {
        double least = dearest;
        for (const int r : owners_[l][i])
          for (const int s : owners_[l + 1][j]) least = std::min(least, row_price(plan_.topology, rules_, r, s));
        kept += pairs_[l][static_cast<std::size_t>(i) * plan_.experts + j] * (dearest - least) / dearest;
      }
  return kept / total;
}

double Recount::value() const {
  if (rules_.objective == "affinity") return kept_share();
  if (rules_.objective == "traffic") return rows_ / (tokens_ * plan_.layers());
  return std::accumulate(heaviest_.begin(), heaviest_.end(), 0.0) / plan_.layers();
}

}  // namespace coterie
