// Puts the best parts of many placements together: a dynamic program along the layers over a pool of layer states, with
// the ranks' names free between neighbours. It removes the "domain walls" at which descents stick, where two runs of
// layers agree each within itself but on different names.
#pragma once

#include "placement/problem.hpp"

#include <functional>
#include <span>
#include <vector>

namespace coterie {

/// A cost that is a sum over layers and over pairs of neighbouring layers. A state is the rank of each expert of a
/// layer.
class ChainCost {
 public:
  ChainCost() = default;
  ChainCost(const ChainCost&) = delete;
  ChainCost& operator=(const ChainCost&) = delete;
  virtual ~ChainCost() = default;

  /// What a layer costs by itself; must not depend on the names of ranks in a node, nor of nodes of one size.
  [[nodiscard]] virtual double own(int layer, const std::vector<int>& state) const = 0;
  /// For every state of `layer` and every state of the next, (here, next): the weight, (ranks, ranks), that arrives at
  /// the next layer's rank (row) from this layer's rank (column). It costs the link's price.
  [[nodiscard]] virtual std::vector<std::vector<double>> flows(int layer, std::span<const std::vector<int>> here,
                                                               std::span<const std::vector<int>> next) const = 0;
};

/// The cheapest placement that can be made of the layers of `placements`, ranks renamed as LabelMatching does. All of
/// them must be complete, and no layer of the problem fixed. Empty when `stop`, asked now and then, became true.
[[nodiscard]] Assignment best_of_pool(const Problem& problem, const ChainCost& cost,
                                      const std::vector<Assignment>& placements, int threads,
                                      const std::function<bool()>& stop);

}  // namespace coterie
