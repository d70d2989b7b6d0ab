#include "placement/plan_facts.hpp"

#include <algorithm>
#include <numeric>

namespace coterie {
namespace {

/// (layers, ranks): rows over the mean of the layer; 1 everywhere for a layer without rows.
std::vector<double> over_mean(std::vector<double> rows, int ranks) {
  for (auto layer = rows.begin(); layer != rows.end(); layer += ranks) {
    const double mean = std::accumulate(layer, layer + ranks, 0.0) / ranks;
    std::transform(layer, layer + ranks, layer, [&](double r) { return mean > 0 ? r / mean : 1.0; });
  }
  return rows;
}

}  // namespace

RankGroups group_ranks(const Topology& topology, int most) {
  RankGroups groups;
  const std::vector<int> node = topology.node_of_rank();
  const int ranks = topology.ranks();
  if (ranks <= most || topology.nodes() == 1 || topology.nodes() > most) {
    const int run = (ranks + most - 1) / most;
    for (int first = 0; first < ranks; first += run) {
      const int last = std::min(first + run, ranks) - 1;
      groups.names.push_back(first == last ? "rank " + std::to_string(first)
                                           : "ranks " + std::to_string(first) + "-" + std::to_string(last));
      groups.node_of_group.push_back(node[first]);
    }
    for (int r = 0; r < ranks; ++r) groups.group_of_rank.push_back(r / run);
    return groups;
  }
  for (int n = 0; n < topology.nodes(); ++n) {
    groups.names.push_back("node " + std::to_string(n));
    groups.node_of_group.push_back(n);
  }
  groups.group_of_rank = node;
  return groups;
}

PlanFacts facts_of(const Problem& problem, const Owners& owners) {
  PlanFacts facts;
  facts.figures = measure(problem, owners);
  facts.stays = stays_by_layer(problem, owners);
  facts.load = over_mean(rank_rows(problem, owners), problem.ranks());
  facts.held.assign(static_cast<std::size_t>(problem.layers()) * problem.ranks(), 0);
  for (int l = 0; l < problem.layers(); ++l) {
    for (const auto& ranks : owners[l]) {
      for (const int r : ranks) ++facts.held[static_cast<std::size_t>(l) * problem.ranks() + r];
      facts.replicas += static_cast<int>(ranks.size()) - 1;
    }
  }
  facts.groups = group_ranks(problem.topology);
  if (problem.traces.empty()) return facts;
  facts.traffic = rows_between_ranks(problem, owners);
  facts.moves = moves_between(problem, owners, facts.groups.group_of_rank);
  return facts;
}

Owners owners_of(const Plan& plan) {
  Owners owners;
  for (int l = 0; l < plan.layers(); ++l) {
    auto& layer = owners.emplace_back(plan.experts);
    for (std::size_t s = 0; s < plan.physical_to_logical[l].size(); ++s) {
      const int expert = plan.physical_to_logical[l][s];
      if (expert != Plan::kEmptySlot) layer[expert].push_back(static_cast<int>(s) / plan.slots_per_rank);
    }
  }
  return owners;
}

}  // namespace coterie
