// A search model that counts the rows which the runtime would send for a sample of tokens: problem.hpp has the rules.
#pragma once

#include "placement/search/layer_pool.hpp"
#include "placement/search/search_model.hpp"

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace coterie {

/// Tokens of a problem's traces, by layer; shared by the models of a search. A token that skips a layer counts from
/// there on as if it started at home, which spares the search a chain of consequences.
struct TokenSample {
  int tokens = 0;
  std::vector<std::int64_t> row;       ///< (tokens): place in its trace
  int width = 0;                       ///< choices of a token
  std::vector<float> weight;           ///< (tokens): sums to the problem's number of tokens
  std::vector<std::uint16_t> experts;  ///< (layers, tokens, width); a choice that is missing: number of experts
  std::vector<float> gates;            ///< of the same shape, or empty
  std::vector<std::vector<std::int32_t>> uses;  ///< (layers * experts): tokens that chose the expert, ascending

  /// `count` tokens spread evenly over all traces by weight; all of them when there are no more. `phase`, in [0, 1),
  /// moves the choice.
  TokenSample(const Problem& problem, std::int64_t count, double phase = 0.5);
};

/// Cost: priced rows of the sample, all layers. Exchanges of layers that are not neighbours may be tried and applied by
/// several threads at once.
class TrafficModel : public SearchModel, public ChainCost {
 public:
  TrafficModel(const Problem& problem, std::shared_ptr<const TokenSample> sample);

  void restart(const Assignment& assignment) override;
  [[nodiscard]] double cost() const override;
  [[nodiscard]] double change(const Exchange& exchange) const override;
  void apply(const Exchange& exchange) override;

  [[nodiscard]] double own(int layer, const std::vector<int>& state) const override;
  [[nodiscard]] std::vector<std::vector<double>> flows(int layer, std::span<const std::vector<int>> here,
                                                       std::span<const std::vector<int>> next) const override;

 private:
  static constexpr int kHome = -1;

  // Tokens whose homes share a domain: their part of all tokens, the ranks that they may land on, prices.
  struct Group {
    float share;
    int first, last;           // [first, last): ranks of the domain; empty for domain `rank`
    std::vector<float> price;  // (1 + ranks, ranks): from home, from rank 0, ...

    [[nodiscard]] const float* from(int rank, int ranks) const {
      return &price[static_cast<std::size_t>(rank + 1) * ranks];
    }
  };
  // The ranks that compute for a token at a layer, in the order of its choices.
  struct Visit {
    std::vector<std::int16_t> rank;     // (width)
    std::vector<float> sum;             // (width) of gates
    std::vector<std::int16_t> choices;  // (width)
    std::vector<std::int16_t> place;    // (ranks): index into the others, meaningful only where rank[place] agrees
    int count = 0;
  };

  [[nodiscard]] Visit empty_visit() const;
  void visit(int layer, int token, const int* ranks, Visit& visit) const;
  [[nodiscard]] int land(const Group& group, const Visit& visit) const;
  // Copies from `resident`, and the partial sums to `landing`.
  [[nodiscard]] float layer_cost(const Group& group, const Visit& visit, int resident, int landing) const;
  // Copies from `resident` alone.
  [[nodiscard]] float copies(const Group& group, const Visit& visit, int resident, int landing) const;
  template <class Each>
  void for_changed(const Exchange& exchange, Each&& each) const;

  [[nodiscard]] std::size_t at(int layer, int token) const {
    return static_cast<std::size_t>(layer) * sample_->tokens + token;
  }
  [[nodiscard]] std::int16_t landing(int layer, std::size_t group, int token) const {
    return layer < 0 ? kHome : landing_[at(layer, token) * groups_.size() + group];
  }

  std::shared_ptr<const TokenSample> sample_;
  int layers_, experts_, ranks_;
  bool coherent_;
  std::vector<Group> groups_;
  std::vector<std::int16_t> landing_;                  // (layers, tokens, groups): rank or kHome
  std::vector<float> cost_;                            // (layers, tokens): rows of the token at the layer, all groups
  mutable std::vector<int> trial_;                     // (layers, experts + 1): ranks, as an exchange would make them
  mutable std::vector<std::array<Visit, 2>> scratch_;  // (layers): of the exchange's layer, and of the next
};

}  // namespace coterie
