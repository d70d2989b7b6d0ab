// A search model whose cost is a sum over pairs of experts: pairs of neighbouring layers (affinity) and of one layer
// (co-activation). Exact for the affinity objective, a fast stand-in for traffic.
#pragma once

#include "placement/search/layer_pool.hpp"
#include "placement/search/search_model.hpp"

#include <memory>
#include <vector>

namespace coterie {

/// Weights of pairs, shared by the models of a search.
struct PairWeights {
  int layers = 0;
  int experts = 0;
  std::vector<float> forward;   ///< (layers - 1, experts, experts): i at l, j at l + 1
  std::vector<float> backward;  ///< the same transposed: j at l + 1, i at l
  std::vector<float> within;    ///< (layers, experts, experts), symmetric; empty: none

  /// `affinity` and `coactivation` are factors; 0 leaves a kind out.
  PairWeights(const Statistics& statistics, double affinity, double coactivation);

  [[nodiscard]] const float* row(const std::vector<float>& of, int layer, int expert) const {
    return of.data() + (static_cast<std::size_t>(layer) * experts + expert) * experts;
  }
};

/// Cost: the sum over all pairs of weight x price of the link between their ranks.
class PairModel : public SearchModel, public ChainCost {
 public:
  PairModel(const Problem& problem, std::shared_ptr<const PairWeights> weights);

  void restart(const Assignment& assignment) override;
  [[nodiscard]] double cost() const override;
  [[nodiscard]] double change(const Exchange& exchange) const override;
  void apply(const Exchange& exchange) override;

  [[nodiscard]] double own(int layer, const std::vector<int>& state) const override;
  [[nodiscard]] std::vector<std::vector<double>> flows(int layer, std::span<const std::vector<int>> here,
                                                       std::span<const std::vector<int>> next) const override;

  /// What expert `e` of `layer` would save on `rank`, given all other experts.
  [[nodiscard]] float gain(int layer, int rank, int expert) const {
    const float near = node_gain_ == 0 ? 0 : node_gain_ * near_[at(nodes_, layer, node_[rank], expert)];
    return rank_gain_ * here_[at(ranks_, layer, rank, expert)] + near;
  }

 private:
  [[nodiscard]] std::size_t at(int groups, int layer, int group, int expert) const {
    return (static_cast<std::size_t>(layer) * groups + group) * weights_->experts + expert;
  }
  void leave(int layer, int expert, int from, int to);
  void shift(int layer, const float* weight, int from, int to);

  std::shared_ptr<const PairWeights> weights_;
  int ranks_, nodes_;
  std::vector<int> node_;    // (ranks)
  float rank_gain_;          // saved by sharing a rank, beyond sharing a node
  float node_gain_;          // saved by sharing a node
  std::vector<float> here_;  // (layers, ranks, experts): weight of the expert's pairs with that rank
  std::vector<float> near_;  // (layers, nodes, experts): the same with that node; empty for one node
};

/// The exchanges of a layer that pairs alone would favour most, best first, at most `most` of them.
[[nodiscard]] std::vector<Exchange> promising_exchanges(const Problem& problem, const PairWeights& weights,
                                                        const Assignment& assignment, int layer, std::size_t most);

}  // namespace coterie
