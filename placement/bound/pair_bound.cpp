#include "placement/bound/pair_bound.hpp"

#include "placement/bound/levels.hpp"
#include "placement/search/label_matching.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

namespace coterie {
namespace {

// Every row keeps at most its `degree` largest weights.
double largest_of_rows(std::span<const double> weight, int experts, int degree, bool transposed) {
  std::vector<double> row(experts);
  double sum = 0;
  for (int i = 0; i < experts; ++i) {
    for (int j = 0; j < experts; ++j)
      row[j] =
          weight[transposed ? static_cast<std::size_t>(j) * experts + i : static_cast<std::size_t>(i) * experts + j];
    const auto kept = row.begin() + std::min(degree, experts);
    std::partial_sort(row.begin(), kept, row.end(), std::greater<>());
    sum += std::accumulate(row.begin(), kept, 0.0);
  }
  return sum;
}

// What an expert's further copies may keep: its weights with the layers before and behind.
double replicas_gain(const Problem& problem, int capacity) {
  if (problem.replicas == 0) return 0;
  const int experts = problem.experts();
  double gain = 0;
  std::vector<double> before(static_cast<std::size_t>(experts) * experts);
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    const auto weight = problem.statistics.affinity_at(l);
    gain += replica_gain(weight, experts, problem.replicas, capacity);
    for (int i = 0; i < experts; ++i)
      for (int j = 0; j < experts; ++j)
        before[static_cast<std::size_t>(j) * experts + i] = weight[static_cast<std::size_t>(i) * experts + j];
    gain += replica_gain(before, experts, problem.replicas, capacity);
  }
  return gain;
}

}  // namespace

PairBound::PairBound(const Problem& problem, int threads, const Assignment* start) : threads_(threads) {
  const std::vector<double>& weight = problem.statistics.affinity;
  total_ = std::accumulate(weight.begin(), weight.end(), 0.0);
  const Kept kept = kept_shares(problem.topology, problem.prices);
  apart_ = problem.topology.nodes() > 1 ? kept.apart : kept.same_node;
  levels_.reserve(2);
  // Where a row inside a node costs more than one between nodes, sharing a node gains nothing.
  const double node = problem.topology.nodes() > 1 ? std::max(0.0, kept.same_node - kept.apart) : 0;
  if (total_ <= 0 || problem.ranks() == 1) return;
  if (node > 0) add_level(problem, "node", node, start);
  add_level(problem, "rank", kept.same_rank - apart_ - node, start);
}

void PairBound::add_level(const Problem& problem, const std::string& name, double gain, const Assignment* start) {
  if (gain <= 0) return;
  const bool ranks = name == "rank";
  const auto& nodes = problem.topology.ranks_per_node;
  const int slots = problem.replicas > 0 ? problem.slots() : problem.most();
  const int capacity = ranks ? slots : slots * *std::max_element(nodes.begin(), nodes.end());
  Level& level = levels_.emplace_back(name, gain);
  level.replicas = replicas_gain(problem, capacity);
  const int experts = problem.experts();
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    const auto weight = problem.statistics.affinity_at(l);
    level.simple +=
        std::min(largest_of_rows(weight, experts, capacity, false), largest_of_rows(weight, experts, capacity, true));
  }
  level.relaxation = ranks ? rank_relaxation(problem) : node_relaxation(problem);
  if (!level.relaxation) return;
  Relaxation& relaxation = *level.relaxation;
  const auto n = static_cast<std::size_t>(relaxation.items());
  for (int l = 0; l + 1 < problem.layers(); ++l) {
    const auto weight = problem.statistics.affinity_at(l);
    std::vector<double>& between = relaxation.between.emplace_back(n * n, 0);
    for (int i = 0; i < experts; ++i)
      std::copy_n(weight.data() + static_cast<std::size_t>(i) * experts, experts, between.begin() + i * n);
  }
  level.iteration.emplace(relaxation, threads_,
                          start ? parts_of(problem, relaxation, *start) : std::vector<std::vector<int>>());
}

void PairBound::iterate(bool look) {
  for (Level& level : levels_)
    if (level.iteration) level.iteration->iterate(look);
}

int PairBound::iterations() const {
  int most = 0;
  for (const Level& level : levels_)
    if (level.iteration) most = std::max(most, level.iteration->iterations());
  return most;
}

double PairBound::share(bool proven) const {
  if (total_ <= 0 || levels_.empty()) return 1;
  double kept = apart_ * total_;
  for (const Level& level : levels_) {
    double bound = (level.simple + level.replicas) * (1 + 1e-12);
    if (level.iteration)
      bound = std::min(
          bound, proven ? dual_bound(*level.relaxation, level.iteration->dual(), threads_) : level.iteration->bound());
    kept += level.gain * bound;
  }
  return std::min(1.0, kept / total_);
}

std::string PairBound::kind() const {
  for (const Level& level : levels_)
    if (level.name == "rank") return level.iteration ? level.iteration->kind() : "degree";
  return "degree";
}

DualCertificate PairBound::certificate() const {
  DualCertificate made;
  for (const Level& level : levels_)
    if (level.iteration)
      made.levels.push_back({level.name, level.relaxation->parts, level.relaxation->capacity, level.iteration->dual()});
  return made;
}

}  // namespace coterie
