// Balances the load of one layer: the placement whose heaviest rank is lightest, as well as search finds it.
#pragma once

#include "placement/problem.hpp"
#include "placement/splitmix.hpp"

#include <span>
#include <vector>

namespace coterie {

/// Rows of the heaviest rank when a layer's experts (rank of each) have these loads.
[[nodiscard]] double heaviest_rank(std::span<const double> load, const std::vector<int>& state, int ranks);

/// Largest first to the lightest rank, then exchanges with the heaviest rank, then `kicks` random disturbances of the
/// best so far, each followed by exchanges; ends early when no rank has more than `enough` rows. Every rank gets
/// `fewest` to `most` experts.
[[nodiscard]] std::vector<int> lightest_layer(std::span<const double> load, int ranks, int fewest, int most, int kicks,
                                              double enough, SplitMix& random);

/// The layer that is hardest to balance, and how light its heaviest rank was found to get.
struct LightestLayer {
  int layer = 0;
  double over_mean = 1;
};
[[nodiscard]] LightestLayer lightest_of_worst_layer(const Problem& problem, std::uint64_t seed);

/// A placement that keeps the problem's limits, fixed layers as they are given. Throws InputError "infeasible: …" when
/// there is none, or none was found.
[[nodiscard]] Assignment feasible_assignment(const Problem& problem, std::uint64_t seed);

}  // namespace coterie
