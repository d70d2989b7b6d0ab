// Expert replication by load, as DeepSeek's expert-parallel load balancer (EPLB) describes it.
#pragma once

#include "placement/topology.hpp"

#include <span>
#include <vector>

namespace coterie {

struct EplbShape {
  Topology topology;
  int slots_per_rank = 0;  ///< at least ceil((experts + replicas) / ranks)
  int replicas = 0;        ///< further copies of experts; dealt evenly to the nodes where nodes come first
  int groups = 1;          ///< expert groups of the router; hierarchical where nodes divide them, otherwise global
};

/// One layer: (ranks * slots_per_rank) logical experts, ascending within a rank, then Plan::kEmptySlot.
/// Hierarchical (equal nodes that divide the groups): groups are packed onto nodes by load, the hottest experts of a
/// node are replicated inside it, its replicas are packed onto its ranks. Global: the same with the whole world as one
/// node. Unlike the original, no rank gets the same expert twice: a replica that would is left out.
[[nodiscard]] std::vector<int> eplb_layer(std::span<const double> load, const EplbShape& shape);

}  // namespace coterie
