// Finds the optimum of a small problem by itself, to check a plan that says it is one.
#pragma once

#include "placement/check/recount.hpp"

#include <optional>
#include <span>
#include <string>

namespace coterie {

struct OptimumLimits {
  int fewest = 0, most = 0;  ///< experts of a rank
  double balance = 0;        ///< heaviest rank over mean; 0: no limit
};

/// The best value of all placements without replicas, by dynamic programming over all placements of a layer under all
/// names. None where that is too much work, or where layers that are not neighbours depend on one another.
[[nodiscard]] std::optional<double> checked_optimum(const Plan& plan, std::span<const WeightedTrace> traces,
                                                    const RecountRules& rules, const Recount& recount,
                                                    const OptimumLimits& limits);

/// Whether that is not too much work for a problem of this shape.
[[nodiscard]] bool can_check_optimum(const Topology& topology, int layers, int experts, const std::string& objective,
                                     const OptimumLimits& limits);

}  // namespace coterie
