// All ways to divide the experts of a layer among the ranks, each once up to renaming.
#pragma once

#include "placement/topology.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace coterie {

/// (experts): the rank of each expert.
using LayerState = std::vector<std::uint8_t>;

struct LayerShape {
  int experts = 0;
  int fewest = 0;  ///< experts of a rank, at least
  int most = 0;    ///< at most
};

/// Two ways are the same when renaming ranks inside nodes, and nodes of one size, turns one into the other; the one
/// with the smallest names stands for all. None when there are more than `limit`, or more than 255 ranks.
[[nodiscard]] std::optional<std::vector<LayerState>> layer_states(const LayerShape& shape, const Topology& topology,
                                                                  std::size_t limit);

}  // namespace coterie
