#include "launch/plan_summary.hpp"

#include "launch/text_page.hpp"
#include "placement/number_text.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace coterie {
namespace {

constexpr double kCarries = 0.03;      // of the value, that a plan may lose on other sequences
constexpr double kFewTokens = 50'000;  // below, chance alone may be the reason

std::string value_text(Objective objective, double value) {
  return objective == Objective::affinity ? percent(value, 2) : fixed(value, 4);
}

std::string value_name(const Problem& problem) {
  switch (problem.objective) {
    case Objective::affinity:
      return problem.topology.nodes() > 1 ? "of the weight kept, priced" : "of the weight stays on a rank";
    case Objective::traffic:
      return "priced rows per token and layer, domain " + std::string(name_of(problem.domain));
    case Objective::load:
      return "heaviest rank over mean, mean over the layers";
  }
  return {};
}

std::string shape_text(const PlanInputs& in) {
  const Problem& problem = in.problem;
  std::string text = in.model + ": " + std::to_string(problem.layers()) + " MoE layers, top " +
                     std::to_string(in.top_k) + " of " + std::to_string(problem.experts()) + " experts, on " +
                     std::to_string(problem.ranks()) + (problem.ranks() == 1 ? " rank" : " ranks");
  if (problem.topology.nodes() > 1) text += " in " + std::to_string(problem.topology.nodes()) + " nodes";
  text += ", " + std::to_string(problem.slots()) + " slots each";
  if (problem.replicas > 0) text += " (" + std::to_string(problem.replicas) + " replicas a layer)";
  return text;
}

std::string load_text(const Figures& now, const Figures& before) {
  return fixed(now.load_mean, 2) + " (contiguous " + fixed(before.load_mean, 2) + "), worst layer " +
         fixed(now.load_worst, 2) + " (" + fixed(before.load_worst, 2) + ")";
}

std::string change_text(double from, double to) {
  if (from == 0) return "";
  const double change = to / from - 1;
  return " (" + std::string(change < 0 ? "-" : "+") + percent(std::abs(change)) + ")";
}

/// Half the sum of the differences of two distributions, the larger over the layers' mean: 0 the same, 1 disjoint.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  const double whole_a = std::accumulate(a.begin(), a.end(), 0.0), whole_b = std::accumulate(b.begin(), b.end(), 0.0);
  if (whole_a <= 0 || whole_b <= 0) return 0;
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += std::abs(a[i] / whole_a - b[i] / whole_b);
  return sum / 2;
}

void tell_bounds(const ReportData& data, TextPage& page) {
  const Objective objective = data.problem->objective;
  for (const Bound& bound : data.bounds) {
    const double value = data.certificate.value;
    const double gap = value != 0 ? std::abs(bound.value - value) / value : 0;
    page.fact(&bound == &data.bounds.front() ? "bound" : "", value_text(objective, bound.value) + " (" + bound.kind +
                                                                 "): the gap is " + percent(gap, 2) + ", " +
                                                                 duration(bound.seconds));
  }
  if (data.bounds.empty()) page.fact("bound", "none was proven");
}

void tell_compared(const ReportData& data, TextPage& page) {
  std::vector<std::vector<std::string>> rows;
  for (const ComparedPlan& plan : data.compared)
    rows.push_back({plan.name + (plan.chosen ? " *" : ""), value_text(data.problem->objective, plan.figures.value),
                    fixed(plan.figures.rows, 3), percent(plan.figures.stays), fixed(plan.figures.load_mean, 2),
                    fixed(plan.figures.load_worst, 2), fixed(plan.seconds, 1), plan.note});
  page.table({"plan", "value", "rows", "stays", "load", "worst", "s", ""}, rows);
}

}  // namespace

std::string why_fit_does_not_carry(const PlanInputs& in, const Holdout& held) {
  const double fitted = held.fitted.value, other = held.left_out.value;
  const bool worse = better(in.problem.objective, fitted, other);
  const double lost = fitted != 0 ? std::abs(other - fitted) / fitted : 0;
  if (!worse || lost <= kCarries) return {};
  const Statistics& a = in.problem.statistics;
  const Statistics& b = in.left_out->statistics;
  const bool pairs = in.problem.objective == Objective::affinity;
  const double apart = in.problem.objective == Objective::load ? distance(a.load, b.load)
                       : pairs                                 ? distance(a.affinity, b.affinity)
                                                               : distance(a.coactivation, b.coactivation);
  std::string text = "the fit does not carry over: on the sequences left out the plan is worth " + percent(lost) +
                     " less than on those it was fitted on; ";
  text += "their " + std::string(in.problem.objective == Objective::load ? "loads" : "pairs of experts") +
          " differ by " + percent(apart) + " (total variation)";
  if (std::min(a.tokens, b.tokens) < kFewTokens)
    text += ", and " + grouped(std::min(a.tokens, b.tokens)) +
            " tokens are few: more of them, and of all kinds of text, help";
  else
    text += ": they are of another kind of text; fit on a trace that has both";
  return text;
}

std::string plan_summary(const PlanInputs& in, const ReportData& data) {
  TextPage page;
  const Problem& problem = in.problem;
  const auto chosen =
      std::find_if(data.compared.begin(), data.compared.end(), [](const ComparedPlan& plan) { return plan.chosen; });
  const Figures& now = chosen->figures;
  const Figures& before = data.compared.front().figures;
  page.fact("plan", shape_text(in));
  const bool weighted = std::any_of(in.sources.begin(), in.sources.end(), [](const auto& s) { return s.weight != 1; });
  page.fact("fitted on", grouped(problem.statistics.tokens) + (weighted ? " tokens (weighted) of " : " tokens of ") +
                             std::to_string(in.sources.size()) + (in.sources.size() == 1 ? " trace" : " traces"));
  page.fact(std::string(name_of(problem.objective)),
            value_text(problem.objective, before.value) + " contiguous -> " + value_text(problem.objective, now.value) +
                " planned" + change_text(before.value, now.value) + ": " + value_name(problem));
  if (!problem.traces.empty() && problem.objective != Objective::traffic)
    page.fact("traffic", fixed(before.priced, 3) + " -> " + fixed(now.priced, 3) + " priced rows per token and layer");
  if (problem.objective != Objective::affinity && problem.layers() > 1 && !problem.statistics.affinity.empty())
    page.fact("stays",
              percent(before.stays) + " -> " + percent(now.stays) + " of the weight between layers on its rank");
  page.fact("load", load_text(now, before) +
                        (problem.balance ? "; limit " + fixed(*problem.balance, 3) : std::string("; no limit")));
  for (const ComparedPlan& plan : data.compared)
    if (plan.name == "no load limit")
      page.fact("", "without the limit " + value_text(problem.objective, plan.figures.value) + ", load " +
                        fixed(plan.figures.load_mean, 2) + ": the limit gives up " +
                        percent(std::abs(plan.figures.value - now.value) / std::max(1e-300, plan.figures.value)));
  tell_bounds(data, page);
  page.fact("search", data.certificate.solver + ", " + duration(chosen->seconds) + ", seed " +
                          std::to_string(data.certificate.seed) + "; all together " +
                          duration(data.certificate.seconds));
  if (data.holdout) {
    const Holdout& held = *data.holdout;
    page.fact("left out",
              grouped(held.tokens) +
                  " tokens of other sequences: " + value_text(problem.objective, held.baseline_left_out.value) +
                  " contiguous -> " + value_text(problem.objective, held.left_out.value) + " planned; load " +
                  fixed(held.left_out.load_mean, 2) + ", worst layer " + fixed(held.left_out.load_worst, 2));
  }
  for (const std::string& warning : data.warnings) page.note("Warning: " + warning + ".");
  if (data.compared.size() > 3) tell_compared(data, page);
  return page.text();
}

}  // namespace coterie
