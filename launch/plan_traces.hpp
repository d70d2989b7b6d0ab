// The traces that `coterie inspect` counts a plan's figures on.
#pragma once

#include "placement/plan.hpp"
#include "placement/trace/statistics.hpp"
#include "placement/trace/trace.hpp"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace coterie {

struct PlanTraces {
  std::vector<std::unique_ptr<Trace>> held;  ///< the windows point into them
  /// Windows with weights, as the plan's sources say and in their order. When they are just the plan's sources, without
  /// the sequences that the plan left out.
  std::vector<WeightedTrace> fitted;
  std::vector<WeightedTrace> left_out;  ///< those sequences
  Statistics loads;                     ///< of load traces; then there are no windows
  std::vector<std::string> strangers;   ///< files that are none of the plan's sources
  std::vector<std::string> missing;     ///< sources of the plan that were not given
};

/// Throws InputError for files that are wrong or of another model than the plan.
[[nodiscard]] PlanTraces read_plan_traces(const Plan& plan, const std::vector<std::filesystem::path>& paths);

}  // namespace coterie
