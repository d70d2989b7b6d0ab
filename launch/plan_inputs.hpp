// What `coterie plan` works on: the traces read, and the problems that they make.
#pragma once

#include "launch/plan_options.hpp"
#include "placement/plan.hpp"
#include "placement/problem.hpp"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

struct PlanInputs {
  std::string model;
  std::vector<int> layer_ids;  ///< (layers)
  int top_k = 0;
  bool by_gate = false;  ///< pairs count by gate weights
  std::vector<PlanSource> sources;
  std::vector<std::unique_ptr<Trace>> held;  ///< the problems point into them

  Problem problem;                  ///< fitted on all sequences but those that are left out
  std::optional<Problem> left_out;  ///< the same on those
  std::vector<std::string> warnings;
};

/// Reads traces and machine file, counts statistics, sets limits. Throws InputError for files that are wrong or don't
/// fit one another, and "infeasible: …" for limits that no placement can keep.
[[nodiscard]] PlanInputs read_plan_inputs(const PlanOptions& options);

}  // namespace coterie
