// How ranks are spread over nodes.
#pragma once

#include <numeric>
#include <vector>

namespace coterie {

/// Ranks are numbered node by node.
struct Topology {
  std::vector<int> ranks_per_node;  ///< (nodes)

  [[nodiscard]] int nodes() const noexcept { return static_cast<int>(ranks_per_node.size()); }
  [[nodiscard]] int ranks() const noexcept { return std::accumulate(ranks_per_node.begin(), ranks_per_node.end(), 0); }
  /// (ranks): the node of each rank.
  [[nodiscard]] std::vector<int> node_of_rank() const;

  friend bool operator==(const Topology&, const Topology&) = default;
};

}  // namespace coterie
