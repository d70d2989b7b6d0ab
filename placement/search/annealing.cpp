#include "placement/search/annealing.hpp"

#include "placement/parallel.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

namespace coterie {
namespace {

// Proposals for a layer before the next has its turn, per expert: neighbours in time share the cache.
constexpr int kTurn = 2;
constexpr int kRepairs = 12;

// A random exchange or move of a layer that keeps the counts.
std::optional<Exchange> propose(const Search& search, int layer, SplitMix& random) {
  const std::vector<int>& ranks = search.model.assignment()[layer];
  const int experts = static_cast<int>(ranks.size());
  const int expert = random.below(experts);
  const int other = random.below(experts);
  if (search.ledger.counts_vary() && random.below(2) == 0) {
    const int to = random.below(search.ledger.ranks());
    if (to == ranks[expert] || !search.ledger.may_give(layer, ranks[expert]) || !search.ledger.may_take(layer, to))
      return std::nullopt;
    return Exchange{layer, expert, to, -1};
  }
  if (ranks[expert] == ranks[other]) return std::nullopt;
  return Exchange{layer, expert, ranks[other], other};
}

double penalised(const Search& search, const Exchange& x) {
  double change = search.model.change(x);
  if (search.ledger.limits_load())
    change += search.penalty * search.ledger.change(x, search.model.assignment()[x.layer][x.expert]);
  return change;
}

void apply(const Search& search, const Exchange& x) {
  search.ledger.apply(x, search.model.assignment()[x.layer][x.expert]);
  search.model.apply(x);
}

void turn(const Search& search, int layer, int proposals, float temperature, SplitMix random) {
  for (int i = 0; i < proposals; ++i) {
    const auto x = propose(search, layer, random);
    if (!x) continue;
    const double change = penalised(search, *x);
    if (change <= 0 || change < -temperature * std::log(random.unit())) apply(search, *x);
  }
}

// Work on every layer once, those of one parity at a time.
template <class Work>
void for_layers(const Search& search, const std::vector<int>& layers, Work&& work) {
  for (const int parity : {0, 1}) {
    std::vector<int> group;
    std::copy_if(layers.begin(), layers.end(), std::back_inserter(group), [&](int l) { return l % 2 == parity; });
    parallel_for(search.threads, group.size(), [&](std::size_t i) { work(group[i]); });
  }
}

bool improve(const Search& search, const Exchange& x, double least) {
  if (penalised(search, x) >= -least) return false;
  apply(search, x);
  return true;
}

// One pass over all exchanges and moves of a layer.
bool descend_layer(const Search& search, int layer, double least) {
  const std::vector<int>& ranks = search.model.assignment()[layer];
  const int experts = static_cast<int>(ranks.size());
  bool improved = false;
  for (int e = 0; e < experts; ++e) {
    if (search.stop()) return false;
    for (int f = e + 1; f < experts; ++f)
      if (ranks[e] != ranks[f]) improved = improve(search, {layer, e, ranks[f], f}, least) || improved;
    if (!search.ledger.counts_vary()) continue;
    for (int to = 0; to < search.ledger.ranks(); ++to)
      if (ranks[e] != to && search.ledger.may_give(layer, ranks[e]) && search.ledger.may_take(layer, to))
        improved = improve(search, {layer, e, to, -1}, least) || improved;
  }
  return improved;
}

// `work(layer, least)` on all layers, and again on those that it improved and their neighbours, until it improves none.
template <class Work>
void descend_layers(const Search& search, Work&& work) {
  // Smaller gains are rounding, and could go round in circles.
  const double least = 1e-7 * (1 + std::abs(search.model.cost()) / static_cast<double>(search.layers.size() + 1));
  std::vector<char> waiting(search.model.assignment().size(), 0), improved(waiting);
  for (const int l : search.layers) waiting[l] = 1;
  const std::vector<char> free = waiting;
  while (!search.stop() && std::find(waiting.begin(), waiting.end(), 1) != waiting.end()) {
    std::vector<int> layers;
    for (const int l : search.layers)
      if (waiting[l]) layers.push_back(l);
    std::fill(waiting.begin(), waiting.end(), 0);
    for_layers(search, layers, [&](int layer) { improved[layer] = work(layer, least); });
    // A layer's best depends on itself and its neighbours.
    for (const int l : layers)
      for (int n = std::max(0, l - 1); improved[l] && n <= l + 1 && n < static_cast<int>(free.size()); ++n)
        waiting[n] = free[n];
  }
}

}  // namespace

Typical typical_change(const Search& search, SplitMix& random, int samples) {
  Typical sum;
  int count = 0;
  for (int i = 0; i < samples; ++i) {
    const auto x = propose(search, search.layers[random.below(static_cast<int>(search.layers.size()))], random);
    if (!x) continue;
    sum.cost += std::abs(search.model.change(*x));
    sum.rows += std::abs(search.ledger.shifted(*x));
    ++count;
  }
  if (count == 0) return {};
  return {sum.cost / count, sum.rows / count};
}

void anneal(const Search& search, const Schedule& schedule, SplitMix& random) {
  if (search.layers.empty() || schedule.hot <= 0) return;
  const int proposals = kTurn * static_cast<int>(search.model.assignment().front().size());
  const std::int64_t pass = static_cast<std::int64_t>(proposals) * static_cast<std::int64_t>(search.layers.size());
  const std::int64_t passes = std::max<std::int64_t>(1, schedule.proposals / pass);
  const double cooling = std::pow(schedule.cold / schedule.hot, 1 / static_cast<double>(passes));
  double temperature = schedule.hot;
  for (std::int64_t i = 0; i < passes && !search.stop(); ++i, temperature *= cooling) {
    const std::uint64_t seed = random.next();
    for_layers(search, search.layers, [&](int layer) {
      if (search.threads != 1 && search.stop()) return;
      turn(search, layer, proposals, static_cast<float>(temperature),
           SplitMix(seed + std::uint64_t{7919} * static_cast<unsigned>(layer)));
    });
  }
}

void descend(const Search& search) {
  descend_layers(search, [&](int layer, double least) { return descend_layer(search, layer, least); });
}

void descend(const Search& search, const Candidates& candidates) {
  descend_layers(search, [&](int layer, double least) {
    const std::vector<int>& ranks = search.model.assignment()[layer];
    bool improved = false;
    for (const Exchange& x : candidates(layer)) {
      if (search.stop()) return false;
      // An exchange before it may have moved one of the two.
      const int from = ranks[x.expert], to = ranks[x.other];
      if (from != to) improved = improve(search, {layer, x.expert, to, x.other}, least) || improved;
    }
    return improved;
  });
}

bool repair(const Search& search, SplitMix& random, double temperature) {
  bool kept = true;
  for (const int layer : search.layers) {
    const std::vector<int> only{layer};
    const int proposals = 32 * static_cast<int>(search.model.assignment()[layer].size());
    double penalty = search.penalty;
    for (int i = 0; i < kRepairs && search.ledger.excess(layer) > 0; ++i, penalty *= 2) {
      const Search here{search.model, search.ledger, only, penalty, search.stop};
      anneal(here, {proposals, temperature, temperature / 16}, random);
      descend(here);
    }
    kept = kept && search.ledger.excess(layer) <= 0;
  }
  return kept;
}

}  // namespace coterie
