// Names the ranks of one layer's groups so that they fit the groups of the layer before.
#pragma once

#include "placement/problem.hpp"
#include "placement/search/matching.hpp"

#include <span>
#include <vector>

namespace coterie {

/// What a pair keeps of its weight: one constant for each distance.
struct Kept {
  double same_rank = 1;
  double same_node = 0;
  double apart = 0;
};

/// 1 - price / dearest price of the topology, as the affinity objective counts it.
[[nodiscard]] Kept kept_shares(const Topology& topology, const LinkPrices& prices);

/// Ranks of a node may change names, and so may nodes of one size. Exact for two levels: the best names inside each
/// pair of nodes, then the best names of the nodes. Keeps working memory: one object per thread.
class LabelMatching {
 public:
  LabelMatching(const Topology& topology, const Kept& kept);

  /// `shared`: (ranks, ranks), row-major: the weight between group h of the second layer (rows) and group g of the
  /// first (columns). The largest kept weight over all names of the second layer's groups.
  [[nodiscard]] double best(std::span<const double> shared);
  /// (ranks): the group of the first layer whose name each group of the second gets.
  [[nodiscard]] std::vector<int> names(std::span<const double> shared);

 private:
  /// Nodes of one size: what they are and how pairs of them match.
  struct Class {
    std::vector<int> nodes;
    Matching ranks;
    Matching among;
    std::vector<double> block;  ///< (size, size)
    std::vector<double> gain;   ///< (nodes, nodes)
  };
  /// The weight between node `row` of the second layer and node `column` of the first.
  void load_block(Class& c, int row, int column, std::span<const double> shared) const;
  void load_gains(Class& c, std::span<const double> shared) const;

  int ranks_;
  Kept kept_;
  std::vector<int> first_rank_;  ///< (nodes)
  std::vector<int> size_;        ///< (nodes)
  std::vector<Class> classes_;
};

}  // namespace coterie
