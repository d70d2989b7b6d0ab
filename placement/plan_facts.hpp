// Facts of a placement on traces, for people: what stays, what travels between which ranks, who has how much work.
#pragma once

#include "placement/plan.hpp"
#include "placement/problem.hpp"

#include <string>
#include <vector>

namespace coterie {

/// Ranks taken together where there are too many to tell apart: a rank, a node, or a run of ranks.
struct RankGroups {
  std::vector<std::string> names;  ///< (groups): "rank 3", "node 1", "ranks 8-11"
  std::vector<int> group_of_rank;  ///< (ranks)
  std::vector<int> node_of_group;  ///< (groups): of its first rank
};

/// At most `most` groups: single ranks, else nodes, else runs of ranks of about the same length.
[[nodiscard]] RankGroups group_ranks(const Topology& topology, int most = 16);

struct PlanFacts {
  Figures figures;
  std::vector<double> stays;    ///< (layers - 1): share of the weight to the next layer that stays on its rank
  std::vector<double> load;     ///< (layers, ranks): rows of the rank over those of the mean rank
  std::vector<int> held;        ///< (layers, ranks): experts on the rank, replicas counted
  std::vector<double> traffic;  ///< (ranks, ranks): rows from rank to rank, per token and layer; empty without traces
  RankGroups groups;
  std::vector<double> moves;  ///< (layers - 1, groups, groups): see moves_between; empty without traces
  int replicas = 0;           ///< copies beyond one per expert, all layers together
};

[[nodiscard]] PlanFacts facts_of(const Problem& problem, const Owners& owners);

/// The ranks of every expert of a valid plan.
[[nodiscard]] Owners owners_of(const Plan& plan);

}  // namespace coterie
