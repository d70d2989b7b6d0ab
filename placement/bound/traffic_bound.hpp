// A lower bound of the priced rows that any placement sends.
#pragma once

#include "placement/bound/doubly_nonnegative.hpp"
#include "placement/bound/dual_certificate.hpp"
#include "placement/bound/row_facets.hpp"
#include "placement/problem.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

/// Chooses for each token and layer a linear lower bound of its rows, so that their sum, less the most that pairs of
/// experts can take off it by sharing ranks and nodes, is largest. That most is bounded by doubly nonnegative
/// relaxations, whose S says in turn which linear bound is best: the two are improved together.
class TrafficBound {
 public:
  /// `start`: a placement to start from, or null. `stop` is asked now and then: once it is true no token chooses any
  /// more, which leaves the bound weaker, not wrong. With `relax` false it is the bound of count_fewest_ranks.
  TrafficBound(const Problem& problem, int threads, std::function<bool()> stop, const Assignment* start = nullptr,
               bool relax = true);
  TrafficBound(const TrafficBound&) = delete;
  TrafficBound& operator=(const TrafficBound&) = delete;

  /// One iteration of every level; with `look` the bound is looked at.
  void iterate(bool look);
  /// Lets `share` of all tokens, drawn at random, choose again by what S says now.
  void choose_again(double share);
  /// True when there are so many tokens that letting all choose again takes longer than an iteration.
  [[nodiscard]] bool is_large() const noexcept { return large_; }
  [[nodiscard]] int iterations() const;

  /// Priced rows per token and layer, but for rounding errors.
  [[nodiscard]] double bound() const;
  /// The same, rounding errors taken off.
  [[nodiscard]] double proven() const;
  /// The same where every token counts the rows that its experts need at least, wherever they are.
  [[nodiscard]] double fewest_ranks() const;
  /// Gives the relaxations up for that bound.
  void count_fewest_ranks();
  /// How the bound was found; what proves it.
  [[nodiscard]] std::string kind() const;
  [[nodiscard]] DualCertificate certificate() const;

 private:
  struct Level {
    Level(Relaxation made, int use) : relaxation(std::move(made)), threads(use) {}
    void start() { iteration.emplace(relaxation, threads, parts); }
    Relaxation relaxation;
    int threads;
    std::vector<std::vector<int>> parts;  ///< (layers)(items) to start from, or empty
    std::optional<DoublyNonnegative> iteration;
  };
  /// How much the experts of a token share ranks and nodes, pair by pair.
  struct PairShares;
  void choose(double share);
  void choose_layer(int layer, double share);
  void choose_alike();
  void choose_layer_alike(int layer);
  template <typename Each>
  void for_tokens(const std::function<bool()>& stop, Each&& each) const;
  void mirror(int layer);
  void count(int layer, const std::vector<int>& experts, const RowChoice& choice, double weight);
  [[nodiscard]] PairShares pair_shares(int layer, const std::vector<int>& experts) const;
  [[nodiscard]] RowChoice best_choice(int layer, const std::vector<int>& experts) const;
  /// Facets that say something where a level is missing.
  [[nodiscard]] bool is_bounded(const RowFacet& facet) const {
    return (rank_ || facet.rank_price <= 0) && (node_ || facet.node_price <= 0);
  }
  [[nodiscard]] const RowFacets& facets(int layer) const { return layer == 0 ? first_ : onward_; }

  const Problem& problem_;
  int threads_;
  std::function<bool()> stop_;
  bool large_ = false;
  RowFacets first_, onward_;
  std::optional<Level> rank_, node_;
  std::vector<double> constant_;                 // (layers): sum of the chosen facets' constants
  std::vector<std::vector<RowChoice>> choices_;  // (traces)(tokens, layers)
  std::uint64_t round_ = 0;
};

}  // namespace coterie
