// `--coherence auto`: the form of context coherence with the least predicted cost. Pure.
#pragma once

#include "runtime/cost/step_cost.hpp"

#include <optional>
#include <string>
#include <vector>

namespace coterie {

/// What is fixed; the rest is chosen.
struct FormLimits {
  std::optional<Coherence> coherence;
  std::optional<bool> replicate;
  std::optional<int> micro_batches;
  std::vector<Coherence> excluded;  ///< domains that can't be had; `rank` always can
};

struct FormChoice {
  StepForm form;
  StepCost cost;   ///< of `form`
  StepCost plain;  ///< of plain expert parallelism
};

/// The cheapest form at this load, but the simpler one where less than 5 % would be saved. `load.rows`: 0 is taken
/// as 1.
[[nodiscard]] FormChoice choose_form(const ModelCosts& model, const Cluster& cluster, const FormLimits& limits,
                                     const StepLoad& load);

/// "world", "world, dense work replicated", "node, 2 micro-batches", ...
[[nodiscard]] std::string to_string(const StepForm& form);
[[nodiscard]] const char* to_string(Coherence coherence) noexcept;

}  // namespace coterie
