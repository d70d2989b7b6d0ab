// Checks what a plan says of itself: counts its value again from the traces, and its bound from stored dual values.
// Shares with the solvers nothing but the readers of traces and plans.
#pragma once

#include "placement/plan.hpp"
#include "placement/trace/statistics.hpp"

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace coterie {

/// What became of a figure that a plan states.
enum class Verdict {
  holds,         ///< counted again, it is the same
  fails,         ///< counted again, it is another
  not_verified,  ///< nothing at hand proves it
};

[[nodiscard]] std::string_view name_of(Verdict verdict) noexcept;

struct CheckedFigure {
  Verdict verdict = Verdict::not_verified;
  double stated = 0;            ///< by the plan
  std::optional<double> found;  ///< by the check
  std::string remark;           ///< how it was found, or why not: for a user
};

struct CheckResult {
  CheckedFigure value;
  CheckedFigure baseline;
  CheckedFigure bound;
  CheckedFigure gap;   ///< as value and bound, as they are stated, have it
  std::string limits;  ///< empty, or the limit of the plan's certificate (slots, load) that the plan breaks

  /// Nothing was found to be false. A bound that nothing proves is not false; callers show it as not verified.
  [[nodiscard]] bool holds() const noexcept {
    return value.verdict == Verdict::holds && baseline.verdict == Verdict::holds && bound.verdict != Verdict::fails &&
           gap.verdict != Verdict::fails && limits.empty();
  }
};

/// `traces`: those that the plan's figures were counted on, with their weights and windows, without what was held out.
/// `certificate`: what `coterie plan --certificate` wrote; without it a bound is verified only where the check can find
/// the optimum by itself (small problems). Throws InputError for a plan without a certificate, traces that are not of
/// the plan's model, and a certificate file that is malformed or belongs to another plan.
[[nodiscard]] CheckResult check_certificate(const Plan& plan, std::span<const WeightedTrace> traces,
                                            const std::optional<std::filesystem::path>& certificate = {});

}  // namespace coterie
