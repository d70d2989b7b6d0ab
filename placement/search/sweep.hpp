// The work-horse of placement, for any size and objective: rounds of many short searches from different starts, whose
// layers a dynamic program then puts together, and polishing on the true cost. All cores; for a seed, every round comes
// out the same whatever the threads, so that more time only adds rounds.
#pragma once

#include "placement/search/layer_pool.hpp"
#include "placement/search/pair_model.hpp"
#include "placement/search/traffic_model.hpp"
#include "placement/solvers/solver.hpp"

#include <chrono>
#include <functional>
#include <memory>
#include <vector>

namespace coterie {

/// Affinity and traffic; one object per solve.
class Sweep {
 public:
  /// A placement that keeps the limits, and its value.
  struct Valued {
    Assignment assignment;
    double value;
  };

  Sweep(const Problem& problem, const SolveOptions& options, Valued start, std::chrono::steady_clock::time_point end);

  /// The best placement found until the time is over, or nothing better was found for long.
  [[nodiscard]] Valued run();

 private:
  struct Found {
    Assignment assignment;
    double cost;  // by cost_of
  };
  /// One search of a round.
  struct Unit {
    enum class Kind {
      fresh,   ///< pairs, from a random start
      reheat,  ///< pairs, from the best so far
      tokens,  ///< tokens, few of them, from the best so far
    };
    Kind kind;
    std::uint64_t seed;
    std::size_t weights;  ///< which of weights_
    double heat;          ///< temperature at the start, relative to a typical exchange's change
    int passes;           ///< over all experts of all layers, twice each
  };

  void calibrate();
  [[nodiscard]] bool round(int number);
  [[nodiscard]] std::vector<Unit> units_of(int number) const;
  [[nodiscard]] Assignment search(const Unit& unit) const;
  [[nodiscard]] bool settle(SearchModel& model, const Unit& unit, const Assignment& from) const;
  [[nodiscard]] Assignment random_start(std::uint64_t seed) const;
  [[nodiscard]] Assignment polished(const Assignment& assignment) const;
  [[nodiscard]] std::int64_t pass() const;  // proposals of a pass over the layers
  [[nodiscard]] bool is_large() const;
  void improve_layers(PairModel& model) const;
  void keep(Assignment assignment);
  [[nodiscard]] double cost_of(const Assignment& assignment) const;

  const Problem& problem_;
  const SolveOptions& options_;
  std::function<bool()> stop_;
  std::vector<int> free_;  // layers that may change
  bool tokens_;            // the true cost is counted from tokens, pairs only stand in for it
  std::vector<std::shared_ptr<const PairWeights>> weights_;
  struct Scale {
    double cost, penalty;
  };
  std::vector<Scale> scale_;  // (weights)
  Scale token_scale_{};
  std::shared_ptr<const TokenSample> sample_;
  std::unique_ptr<PairModel> pairs_;    // for costs of whole placements; affinity
  std::unique_ptr<TrafficModel> rows_;  // the same; traffic
  std::vector<Found> elite_;            // best first, all different
  std::vector<Assignment> recent_;
  Valued best_;
};

}  // namespace coterie
