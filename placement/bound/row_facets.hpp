// Linear lower bounds of the rows that a token sends at a layer, by which of its experts share a rank or a node.
#pragma once

#include "placement/problem.hpp"

#include <span>
#include <vector>

namespace coterie {

/// A token with u experts sends at least `constant` - `rank_price` * (pairs of them that share a rank) - `node_price` *
/// (pairs that share a node) priced rows; prices are not negative. It holds for any u of a token's experts.
struct RowFacet {
  double constant = 0;
  double rank_price = 0;
  double node_price = 0;
};

/// How the rows of a token and layer are counted.
enum class RowRule {
  onward,  ///< from the rank where the layer before left it (domain world; the resident rank is taken to be a hit)
  first,   ///< from home, where the first layer starts (domain world)
  home,    ///< from home and back (domain rank)
  node,    ///< domain node
};

/// The rule of a layer; domains that come to the same (a node of one rank, one node) share one. With replicas it is
/// always `onward`: where a token runs may depend on its home, and rows between distinct ranks are all that is sure.
[[nodiscard]] RowRule row_rule(const Problem& problem, int layer);
/// Whether a token stays at the rank where it landed.
[[nodiscard]] bool tokens_stay(const Problem& problem);

/// For every number of experts the facets of the lower convex hull of all (pairs that share a rank, pairs that share a
/// node, rows): placement/bound/bounds.md.
class RowFacets {
 public:
  /// `most`: experts of a token.
  RowFacets(const Problem& problem, RowRule rule, int most);
  /// Experts that there are facets for, at most; of a token with more only some can be used.
  [[nodiscard]] int most() const noexcept { return static_cast<int>(facets_.size()) - 1; }
  [[nodiscard]] std::span<const RowFacet> of(int experts) const { return facets_[experts]; }

 private:
  std::vector<std::vector<RowFacet>> facets_;  // (experts + 1)
};

}  // namespace coterie
