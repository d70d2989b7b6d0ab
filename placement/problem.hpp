// The placement problem and its parts: what is given, what is asked for, what it costs.
#pragma once

#include "placement/statistics.hpp"
#include "placement/topology.hpp"

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace coterie {

enum class Objective {
  affinity,  ///< largest share of the weight between consecutive layers that stays on a rank (ExFlow)
  traffic,   ///< fewest priced rows that the runtime would send, by the landing rule of the coherence domain
  load,      ///< lightest heaviest rank
};

/// The ranks that hold a sequence's KV cache: a token may stay on any of them.
enum class Domain { rank, node, world };

/// What a row costs on a link.
struct LinkPrices {
  double inside_node = 1;
  double between_nodes = 8;
};

/// Without replicas a placement is a rank for every expert: (layers, experts) -> rank.
using Assignment = std::vector<std::vector<int>>;

struct Problem {
  Objective             objective = Objective::traffic;
  Domain                domain = Domain::world;
  Topology              topology;
  LinkPrices            prices;
  std::optional<double> balance = 1.1;  ///< heaviest rank over mean rank, per layer; none: no limit
  int                   slots_per_rank = 0;  ///< experts that fit a rank; at least ceil(experts / ranks)
  bool                  equal_counts = true; ///< every rank holds floor or ceil of experts / ranks

  Statistics                 statistics;
  std::vector<WeightedTrace> traces;  ///< the tokens themselves: the traffic objective needs whole choices, not pairs

  [[nodiscard]] int layers() const noexcept { return statistics.layers; }
  [[nodiscard]] int experts() const noexcept { return statistics.experts; }
  [[nodiscard]] int ranks() const noexcept { return topology.ranks(); }
};

/// The problem's objective for a complete assignment; affinity: larger is better, traffic and load: smaller.
[[nodiscard]] double evaluate(const Problem& problem, const Assignment& assignment);
/// True when a is strictly better than b under the objective.
[[nodiscard]] bool better(Objective objective, double a, double b) noexcept;
/// Empty, or "infeasible: …" with the first limit that is broken, the layer and the rank.
[[nodiscard]] std::string check_limits(const Problem& problem, const Assignment& assignment);

}  // namespace coterie
