// Counts what a plan does with the tokens of traces, for the check of a plan: by the rules of problem.hpp, but with
// code of its own.
#pragma once

#include "placement/plan.hpp"
#include "placement/trace/statistics.hpp"

#include <span>
#include <string>
#include <vector>

namespace coterie {

/// The rules that a plan's figures were counted by: from its certificate.
struct RecountRules {
  std::string objective, domain;
  double near_price = 1, far_price = 8;
  int top = 0;
  bool by_gate = false;
};

/// One token's choices at a layer, null ones left out.
struct RecountChoice {
  std::vector<int> experts;
  std::vector<double> gates;  ///< 1 without gate weights
};
[[nodiscard]] RecountChoice choice_of(const Trace& trace, std::int64_t token, int layer, int top);
/// One behind the last token of the window.
[[nodiscard]] std::int64_t window_end(const WeightedTrace& window);

/// Priced rows between two ranks.
[[nodiscard]] double row_price(const Topology& topology, const RecountRules& rules, int from, int to);

class Recount {
 public:
  Recount(const Plan& plan, std::span<const WeightedTrace> traces, RecountRules rules);

  /// The objective of the plan.
  [[nodiscard]] double value() const;
  /// (layers): the heaviest rank's rows over the mean.
  [[nodiscard]] const std::vector<double>& heaviest() const noexcept { return heaviest_; }

  [[nodiscard]] double tokens() const noexcept { return tokens_; }
  /// (layers - 1)(experts, experts): weight from an expert to the next layer's.
  [[nodiscard]] const std::vector<std::vector<double>>& pairs() const noexcept { return pairs_; }
  /// (layers)(experts): rows.
  [[nodiscard]] const std::vector<std::vector<double>>& load() const noexcept { return load_; }
  [[nodiscard]] double total_pairs() const;

 private:
  void count_tables();
  void count_rows();
  double walk(const Trace& trace, std::int64_t token, const std::vector<int>& homes, double weight);
  [[nodiscard]] int runs_on(int layer, int expert, int resident, const std::vector<int>& visited,
                            std::int64_t token) const;
  [[nodiscard]] double kept_share() const;

  const Plan& plan_;
  std::span<const WeightedTrace> traces_;
  RecountRules rules_;
  std::vector<int> node_;                              // (ranks)
  std::vector<std::vector<std::vector<int>>> owners_;  // (layers)(experts)
  bool replicated_ = false;
  double tokens_ = 0;
  double rows_ = 0;  // priced
  std::vector<std::vector<double>> pairs_, load_, rank_rows_;
  std::vector<double> heaviest_;
};

}  // namespace coterie
