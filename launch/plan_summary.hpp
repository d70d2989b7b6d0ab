// What `coterie plan` says when it is done.
#pragma once

#include "launch/plan_inputs.hpp"
#include "placement/report/report.hpp"

#include <string>

namespace coterie {

/// For a terminal of 80 columns. `data.compared` becomes a table when it has more than the plan and contiguous.
[[nodiscard]] std::string plan_summary(const PlanInputs& in, const ReportData& data);

/// Empty while the plan is worth on what was left out what it is worth on what it was fitted on, within 3 %; else how
/// much less, and what is known about why.
[[nodiscard]] std::string why_fit_does_not_carry(const PlanInputs& in, const Holdout& held);

}  // namespace coterie
