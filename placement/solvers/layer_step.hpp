// The step from the states of one layer to those of the next: which state of the layer before is the best to come from.
#pragma once

#include "placement/search/label_matching.hpp"
#include "placement/solvers/layer_costs.hpp"

#include <cstddef>
#include <span>
#include <vector>

namespace coterie {

/// What comes to the items of a pair of layers from some states of the first.
struct Arrivals {
  /// `layer` is the first of the pair.
  Arrivals(const LayerCosts& costs, int layer, std::span<const LayerState> states, int ranks, int threads);

  std::size_t states;
  std::size_t ranks;
  std::vector<double> weight;  ///< (items, states, ranks)
};

/// Some states of a layer, as targets of the step. Keeps working memory: one object per thread.
///
/// Most states differ from others by a few ranks only, so what arrives is summed for each group of experts that some
/// rank holds, once. The groups also bound what a step can keep, without the best names: of a row of the table of
/// shared weight the largest entry stays on its rank and all else in the node, at most.
class LayerStep {
 public:
  /// `before`: the layer before theirs.
  LayerStep(const LayerCosts& costs, int before, std::span<const LayerState> states, const Topology& topology);

  /// For each state: the largest of value[s] and what is kept of the step from s, for s in [first, last), and the
  /// lowest s that has it; where it is larger than best already is.
  void take(const Arrivals& arrivals, std::span<const double> value, std::size_t first, std::size_t last,
            std::span<double> best, std::span<std::size_t> from);

  /// (ranks): the rank of state `source` of the layer before whose name each rank of state `target` gets.
  [[nodiscard]] std::vector<int> names(const Arrivals& arrivals, std::size_t source, std::size_t target);

 private:
  /// Sums of the columns of states [first, last) for every group, and the bounds by them.
  void sum(const Arrivals& arrivals, std::size_t first, std::size_t last);
  /// What state `target` and the s-th of the states that are summed share.
  void share(std::size_t target, std::size_t s);

  std::size_t ranks_;
  Kept kept_;
  LabelMatching matching_;
  std::vector<std::size_t> group_;               ///< (states, ranks)
  std::vector<std::vector<std::size_t>> items_;  ///< (groups): those of which the group has an expert, ascending
  std::size_t summed_ = 0;                       ///< states of the layer before
  std::vector<double> sums_;                     ///< (groups, summed, ranks)
  std::vector<double> most_;                     ///< (groups, summed): what each can keep at most
  std::vector<double> bound_;                    ///< (summed)
  std::vector<double> shared_;                   ///< (ranks, ranks)
};

}  // namespace coterie
