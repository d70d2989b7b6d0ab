#include "launch/inspection.hpp"
#include "launch/plan_traces.hpp"
#include "launch/text_page.hpp"
#include "placement/check/check_certificate.hpp"
#include "placement/input_error.hpp"
#include "placement/number_text.hpp"
#include "placement/plan_facts.hpp"

#include <algorithm>
#include <iterator>

namespace coterie {
namespace {

using nlohmann::json;

constexpr int kMostRanksOnPage = 9;  ///< ranks whose traffic fits 80 columns

/// What the plan's figures are counted by: its certificate's rules, or the options'.
Problem problem_of(const Plan& plan, const InspectOptions& options, const PlanTraces& traces) {
  const Certificate rules = plan.certificate.value_or(Certificate{});
  Problem problem;
  if (plan.certificate) {
    problem.objective = objective_of(rules.objective);
    if (!rules.domain.empty()) problem.domain = domain_of(rules.domain);
  }
  problem.objective = options.objective.value_or(problem.objective);
  problem.domain = options.domain.value_or(problem.domain);
  problem.topology = plan.topology;
  problem.prices = {rules.price_inside_node, rules.price_between_nodes};
  problem.balance = rules.balance > 0 ? std::optional(rules.balance) : std::nullopt;
  problem.slots_per_rank = plan.slots_per_rank;
  problem.equal_counts = false;
  problem.top = rules.top;
  problem.traces = traces.fitted;
  if (problem.traces.empty()) {
    problem.statistics = traces.loads;
    return problem;
  }
  CountOptions by;
  by.by_gate = problem.objective == Objective::affinity && (rules.by_gate || !plan.certificate);
  by.top = rules.top;
  problem.statistics = count(problem.traces, by);
  return problem;
}

std::string value_text(const std::string& objective, double value) {
  return objective == "affinity" ? percent(value, 2) : fixed(value, 4);
}

std::string topology_text(const Plan& plan) {
  std::string text = std::to_string(plan.ranks()) + (plan.ranks() == 1 ? " rank" : " ranks");
  if (plan.topology.nodes() > 1) {
    text += " in " + std::to_string(plan.topology.nodes()) + " nodes (";
    for (int n = 0; n < plan.topology.nodes(); ++n) {
      text += (n > 0 ? " + " : "") + std::to_string(plan.topology.ranks_per_node[n]);
    }
    text += ")";
  }
  return text + ", " + std::to_string(plan.slots_per_rank) + " slots each";
}

void tell_shape(const Plan& plan, TextPage& page, json& out) {
  int replicas = 0;
  for (const auto& layer : owners_of(plan)) {
    for (const auto& ranks : layer) replicas += static_cast<int>(ranks.size()) - 1;
  }
  page.fact("model", plan.model + ": " + std::to_string(plan.layers()) + " MoE layers (" + ranges_text(plan.layer_ids) +
                         "), top " + std::to_string(plan.top_k) + " of " + std::to_string(plan.experts) + " experts");
  page.fact("topology", topology_text(plan) + "; " +
                            (replicas == 0 ? "no replicas" : grouped(replicas) + " replicas over all layers"));
  out.update({{"model", plan.model},
              {"layers", plan.layers()},
              {"layer_ids", plan.layer_ids},
              {"experts", plan.experts},
              {"top_k", plan.top_k},
              {"ranks", plan.ranks()},
              {"ranks_per_node", plan.topology.ranks_per_node},
              {"slots_per_rank", plan.slots_per_rank},
              {"replicas", replicas}});
}

void tell_certificate(const Plan& plan, TextPage& page, json& out) {
  if (!plan.certificate) {
    page.fact("certificate", "none");
    out["certificate"] = nullptr;
    return;
  }
  const Certificate& c = *plan.certificate;
  std::string text = "objective " + c.objective + ": " + value_text(c.objective, c.value) + ", contiguous " +
                     value_text(c.objective, c.baseline);
  const bool proven = !c.bound_kind.empty();
  if (!proven) {
    text += "; no bound";
  } else {
    text += "; bound " + value_text(c.objective, c.bound) + " (" + c.bound_kind + "), gap " + percent(c.gap, 2);
  }
  page.fact("certificate", text);
  page.fact("", "by " + c.solver + " in " + duration(c.seconds) + ", seed " + std::to_string(c.seed) + ", " +
                    (c.balance > 0 ? "load limit " + fixed(c.balance, 2) : "no load limit"));
  out["certificate"] = {{"objective", c.objective},
                        {"value", c.value},
                        {"baseline", c.baseline},
                        {"bound", proven ? json(c.bound) : json()},
                        {"gap", proven ? json(c.gap) : json()},
                        {"bound_kind", proven ? c.bound_kind : "none"},
                        {"solver", c.solver},
                        {"seconds", c.seconds},
                        {"seed", c.seed}};
}

json figures_json(const Figures& f) {
  return {
      {"value", f.value}, {"affinity", f.affinity},         {"stays", f.stays},         {"priced", f.priced},
      {"rows", f.rows},   {"rows_between", f.rows_between}, {"load_mean", f.load_mean}, {"load_worst", f.load_worst}};
}

/// What the figures are counted on.
std::string counted_on(const Problem& problem, const PlanTraces& traces) {
  std::string text = grouped(problem.statistics.tokens) + " tokens (weighted)";
  if (!traces.left_out.empty()) text += ", without the sequences that the plan left out";
  if (!problem.traces.empty()) text += "; coherence domain " + std::string(name_of(problem.domain));
  return text + "; contiguous in brackets";
}

json matrix_json(const std::vector<double>& values, std::size_t width) {
  json rows = json::array();
  for (auto at = values.begin(); at != values.end(); at += static_cast<std::ptrdiff_t>(width)) {
    rows.push_back(std::vector<double>(at, at + static_cast<std::ptrdiff_t>(width)));
  }
  return rows;
}

void tell_traffic(const PlanFacts& facts, int ranks, TextPage& page) {
  if (ranks > kMostRanksOnPage) {
    const auto most = std::max_element(facts.traffic.begin(), facts.traffic.end()) - facts.traffic.begin();
    page.note("Busiest pair of ranks: " + std::to_string(most / ranks) + " to " + std::to_string(most % ranks) +
              " with " + fixed(1000 * facts.traffic[most], 1) +
              " rows per 1,000 tokens and layer (all pairs: --json).");
    return;
  }
  page.note("Rows from rank to rank per 1,000 tokens and layer:");
  std::vector<std::string> head{"from \\ to"};
  std::vector<std::vector<std::string>> rows;
  for (int a = 0; a < ranks; ++a) {
    head.push_back(std::to_string(a));
    auto& row = rows.emplace_back(1, std::to_string(a));
    for (int b = 0; b < ranks; ++b) row.push_back(a == b ? "-" : fixed(1000 * facts.traffic[a * ranks + b], 1));
  }
  page.table(head, rows);
}

void tell_layers(const Plan& plan, const PlanFacts& facts, TextPage& page) {
  const int ranks = plan.ranks();
  std::vector<std::vector<std::string>> rows;
  for (int l = 0; l < plan.layers(); ++l) {
    const auto load = facts.load.begin() + static_cast<std::ptrdiff_t>(l) * ranks;
    const auto held = facts.held.begin() + static_cast<std::ptrdiff_t>(l) * ranks;
    const auto heaviest = std::max_element(load, load + ranks);
    rows.push_back({std::to_string(plan.layer_ids[l]),
                    l < static_cast<int>(facts.stays.size()) ? percent(facts.stays[l]) : "", fixed(*heaviest, 2),
                    std::to_string(heaviest - load), fixed(*std::min_element(load, load + ranks), 2),
                    std::to_string(*std::min_element(held, held + ranks)) + "-" +
                        std::to_string(*std::max_element(held, held + ranks))});
  }
  page.table({"layer", "stays", "max/mean", "at rank", "min/mean", "experts"}, rows);
}

void tell_figures(const Plan& plan, const Problem& problem, TextPage& page, json& out) {
  const PlanFacts facts = facts_of(problem, owners_of(plan));
  const Figures base = measure(problem, contiguous_assignment(problem));
  const Figures& f = facts.figures;
  if (!problem.traces.empty()) {
    page.fact("traffic", fixed(f.rows, 3) + " rows leave a rank per token and layer (" + fixed(base.rows, 3) + ")" +
                             (plan.topology.nodes() > 1 ? ", " + fixed(f.rows_between, 3) + " of them between nodes (" +
                                                              fixed(base.rows_between, 3) + ")"
                                                        : "") +
                             "; priced " + fixed(f.priced, 3) + " (" + fixed(base.priced, 3) + ")");
    page.fact("locality",
              percent(f.stays) + " of the weight to the next layer stays on its rank (" + percent(base.stays) + ")");
  }
  page.fact("load", "heaviest rank over mean " + fixed(f.load_mean, 2) + " (" + fixed(base.load_mean, 2) +
                        "), in the worst layer " + fixed(f.load_worst, 2) + " (" + fixed(base.load_worst, 2) + ")");
  const auto ranks = static_cast<std::size_t>(plan.ranks());
  out["objective"] = name_of(problem.objective);
  out["domain"] = name_of(problem.domain);
  out["tokens"] = problem.statistics.tokens;
  out["figures"] = figures_json(f);
  out["contiguous"] = figures_json(base);
  out["stays_by_layer"] = facts.stays;
  out["load"] = matrix_json(facts.load, ranks);
  json held = json::array();
  for (std::size_t i = 0; i < facts.held.size(); ++i) {
    if (i % ranks == 0) held.push_back(json::array());
    held.back().push_back(facts.held[i]);
  }
  out["experts_held"] = std::move(held);
  out["rows_between_ranks"] = matrix_json(facts.traffic, ranks);
  tell_layers(plan, facts, page);
  if (!facts.traffic.empty()) tell_traffic(facts, plan.ranks(), page);
}

void tell_checked(const std::string& name, bool as_percent, const CheckedFigure& figure, TextPage& page, json& out) {
  const auto text = [&](double value) { return as_percent ? percent(value, 2) : fixed(value, 4); };
  page.fact(name, std::string(name_of(figure.verdict)) + ": stated " + text(figure.stated) +
                      (figure.found ? ", found " + text(*figure.found) : "") +
                      (figure.remark.empty() ? "" : " (" + figure.remark + ")"));
  out[name] = {{"verdict", name_of(figure.verdict)},
               {"stated", figure.stated},
               {"found", figure.found ? json(*figure.found) : json()},
               {"remark", figure.remark}};
}

/// The plan's figures can be counted again only on all that it was made from, and nothing else.
void demand_sources(const Plan& plan, const InspectOptions& options, const PlanTraces& traces) {
  const std::string where = options.subject.string();
  if (!plan.certificate) throw bad_field(where, "certificate", "none", "one to check");
  if (!traces.missing.empty()) {
    throw InputError("coterie inspect: --check counts on all traces of the plan; " + traces.missing.front() +
                     " is missing, or is not what it was: name it with --trace");
  }
  if (!plan.sources.empty() && !traces.strangers.empty()) {
    throw bad_field(traces.strangers.front(), "digest", "another than any of the plan's sources",
                    "a trace of the plan");
  }
  if (traces.fitted.empty()) {
    throw InputError(
        "coterie inspect: --check needs traces of choices (coterie.trace/1); counts of load are not enough");
  }
}

int tell_check(const Plan& plan, const InspectOptions& options, const PlanTraces& traces, TextPage& page, json& out) {
  demand_sources(plan, options, traces);
  const CheckResult result = check_certificate(plan, traces.fitted, options.certificate);
  page.note("Checked, by code that shares nothing with the solvers:");
  json& check = out["check"];
  const bool affinity = plan.certificate->objective == "affinity", bounded = !plan.certificate->bound_kind.empty();
  tell_checked("value", affinity, result.value, page, check);
  tell_checked("contiguous", affinity, result.baseline, page, check);
  if (bounded) {
    tell_checked("bound", affinity, result.bound, page, check);
    tell_checked("gap", true, result.gap, page, check);
  }
  page.fact("limits", result.limits.empty() ? "kept" : result.limits);
  check["limits"] = result.limits;
  check["holds"] = result.holds();
  const bool open = bounded && result.bound.verdict == Verdict::not_verified;
  page.fact("certificate", !result.holds() ? "DOES NOT HOLD"
                           : open          ? "holds but for its bound, which is not verified"
                                           : "holds");
  return result.holds() ? kDone : kSomeFailed;
}

}  // namespace

Inspection inspect_plan(const InspectOptions& options) {
  const Plan plan = read_plan(options.subject);
  if (options.check && options.traces.empty()) {
    throw InputError("coterie inspect: --check counts on the traces of the plan; name them with --trace");
  }
  Inspection found;
  found.json = {{"kind", "plan"}, {"file", options.subject.string()}};
  TextPage page;
  page.fact("plan", options.subject.string());
  tell_shape(plan, page, found.json);
  tell_certificate(plan, page, found.json);
  found.json["sources"] = json::array();
  for (const PlanSource& source : plan.sources) {
    page.fact("source", source.file + " " + source.digest);
    found.json["sources"].push_back({{"file", source.file}, {"digest", source.digest}, {"weight", source.weight}});
  }
  if (!options.traces.empty()) {
    const PlanTraces traces = read_plan_traces(plan, options.traces);
    for (const std::string& stranger : traces.strangers) {
      if (!plan.sources.empty()) page.fact("note", stranger + " is none of the plan's sources");
    }
    found.json["strangers"] = traces.strangers;
    found.json["missing"] = traces.missing;
    const Problem problem = problem_of(plan, options, traces);
    page.fact("on traces", counted_on(problem, traces));
    tell_figures(plan, problem, page, found.json);
    if (options.check) found.exit_code = tell_check(plan, options, traces, page, found.json);
  }
  found.text = page.text();
  return found;
}

}  // namespace coterie
