// What a placement costs: problem.hpp has the rules. Affinity and load come from the statistics, traffic from a walk of
// every token through the layers.
#include "placement/problem.hpp"
#include "placement/token_walk.hpp"

#include <algorithm>
#include <numeric>
#include <span>
#include <stdexcept>

namespace coterie {
namespace {

// Rows by the statistics, those of a replicated expert shared evenly.
std::vector<double> shared_rows(const Problem& problem, const Owners& owners) {
  std::vector<double> rows(static_cast<std::size_t>(problem.layers()) * problem.ranks(), 0);
  for (int l = 0; l < problem.layers(); ++l)
    for (int e = 0; e < problem.experts(); ++e)
      for (const int r : owners[l][e])
        rows[static_cast<std::size_t>(l) * problem.ranks() + r] +=
            problem.statistics.load_at(l)[e] / static_cast<double>(owners[l][e].size());
  return rows;
}

bool replicated(const Owners& owners) {
  for (const auto& layer : owners)
    for (const auto& ranks : layer)
      if (ranks.size() > 1) return true;
  return false;
}

void measure_load(const Problem& problem, const std::vector<double>& rows, Figures& figures) {
  const int ranks = problem.ranks();
  for (int l = 0; l < problem.layers(); ++l) {
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(l) * ranks;
    const double mean = std::accumulate(begin, begin + ranks, 0.0) / ranks;
    const double ratio = mean > 0 ? *std::max_element(begin, begin + ranks) / mean : 1;
    figures.load_mean += ratio / problem.layers();
    figures.load_worst = std::max(figures.load_worst, ratio);
  }
}

struct PairOfLayers {
  double total = 0, kept = 0, stays = 0;
};

// With replicas a pair of experts keeps what its best pair of ranks keeps. `price`: (ranks, ranks).
PairOfLayers affinity_from(int layer, const Problem& problem, const Owners& owners, const std::vector<double>& price) {
  const double dearest = *std::max_element(price.begin(), price.end());
  const auto weight = problem.statistics.affinity_at(layer);
  PairOfLayers pair;
  for (int i = 0; i < problem.experts(); ++i)
    for (int j = 0; j < problem.experts(); ++j) {
      const double w = weight[static_cast<std::size_t>(i) * problem.experts() + j];
      double cheapest = dearest;
      for (const int r : owners[layer][i])
        for (const int s : owners[layer + 1][j])
          cheapest = std::min(cheapest, price[static_cast<std::size_t>(r) * problem.ranks() + s]);
      pair.total += w;
      if (cheapest < dearest) pair.kept += w * (1 - cheapest / dearest);
      if (cheapest == 0) pair.stays += w;
    }
  return pair;
}

void measure_affinity(const Problem& problem, const Owners& owners, Figures& figures) {
  if (problem.statistics.affinity.empty() && problem.layers() > 1) return;  // counts of load know no pairs
  const std::vector<double> price = link_prices(problem.topology, problem.prices);
  const double dearest = *std::max_element(price.begin(), price.end());
  PairOfLayers all;
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    const PairOfLayers pair = affinity_from(l, problem, owners, price);
    all.total += pair.total;
    all.kept += pair.kept;
    all.stays += pair.stays;
  }
  figures.affinity = all.total > 0 && dearest > 0 ? all.kept / all.total : 1;
  figures.stays = all.total > 0 ? all.stays / all.total : 1;
}

void measure_traffic(const Problem& problem, const Tally& tally, Figures& figures) {
  const double steps = problem.statistics.tokens * problem.layers();
  figures.rows = tally.rows / steps;
  figures.rows_between = tally.between / steps;
  figures.priced = problem.prices.inside_node * (figures.rows - figures.rows_between) +
                   problem.prices.between_nodes * figures.rows_between;
}

double value_of(Objective objective, const Figures& figures) {
  switch (objective) {
    case Objective::affinity:
      return figures.affinity;
    case Objective::traffic:
      return figures.priced;
    case Objective::load:
      return figures.load_mean;
  }
  return 0;
}

}  // namespace

std::vector<double> stays_by_layer(const Problem& problem, const Owners& owners) {
  const std::vector<double> price = link_prices(problem.topology, problem.prices);
  std::vector<double> stays;
  if (problem.statistics.affinity.empty()) return stays;
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    const PairOfLayers pair = affinity_from(l, problem, owners, price);
    stays.push_back(pair.total > 0 ? pair.stays / pair.total : 1);
  }
  return stays;
}

std::vector<double> rows_between_ranks(const Problem& problem, const Owners& owners) {
  std::vector<double> rows = walk(problem, owners, {.pairs = true})->pair_rows;
  for (double& r : rows) r /= problem.statistics.tokens * problem.layers();
  return rows;
}

std::vector<double> moves_between(const Problem& problem, const Owners& owners, std::span<const int> group_of_rank) {
  Problem anywhere;
  anywhere.domain = Domain::world;
  anywhere.topology = problem.topology;
  anywhere.traces = problem.traces;
  anywhere.top = problem.top;
  std::vector<double> moves = walk(anywhere, owners, {.group_of_rank = group_of_rank})->moves;
  for (double& m : moves) m /= problem.statistics.tokens;
  return moves;
}

std::vector<double> rank_rows(const Problem& problem, const Owners& owners) {
  if (problem.traces.empty() || !replicated(owners)) return shared_rows(problem, owners);
  return walk(problem, owners)->rank_rows;
}

std::optional<Assessment> assess(const Problem& problem, const Owners& owners, const std::function<bool()>& stop) {
  Assessment found;
  const auto tally = walk(problem, owners, {.stop = stop ? &stop : nullptr});
  if (!tally) return std::nullopt;
  measure_affinity(problem, owners, found.figures);
  if (!problem.traces.empty()) measure_traffic(problem, *tally, found.figures);
  const std::vector<double> rows = tally->rank_rows.empty() ? shared_rows(problem, owners) : tally->rank_rows;
  measure_load(problem, rows, found.figures);
  found.figures.value = value_of(problem.objective, found.figures);
  found.broken = check_limits(problem, owners, rows);
  return found;
}

Figures measure(const Problem& problem, const Owners& owners) {
  return assess(problem, owners)->figures;
}

Figures measure(const Problem& problem, const Assignment& assignment) {
  return measure(problem, owners_of(assignment));
}

std::optional<double> evaluate(const Problem& problem, const Owners& owners, const std::function<bool()>& stop) {
  Figures figures;
  switch (problem.objective) {
    case Objective::affinity:
      measure_affinity(problem, owners, figures);
      break;
    case Objective::traffic: {
      if (problem.traces.empty())
        throw std::invalid_argument("traffic is counted from traces, and the problem has none");
      const auto tally = walk(problem, owners, {.stop = &stop});
      if (!tally) return std::nullopt;
      measure_traffic(problem, *tally, figures);
      break;
    }
    case Objective::load:
      measure_load(problem, rank_rows(problem, owners), figures);
      break;
  }
  return value_of(problem.objective, figures);
}

double evaluate(const Problem& problem, const Owners& owners) {
  return *evaluate(problem, owners, [] { return false; });
}

double evaluate(const Problem& problem, const Assignment& assignment) {
  return evaluate(problem, owners_of(assignment));
}

}  // namespace coterie
