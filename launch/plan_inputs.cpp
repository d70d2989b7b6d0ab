#include "launch/plan_inputs.hpp"

#include "placement/files/digest.hpp"
#include "placement/input_error.hpp"
#include "placement/machine.hpp"
#include "placement/number_text.hpp"
#include "placement/search/lightest.hpp"
#include "placement/trace/holdout.hpp"
#include "placement/trace/load_trace.hpp"

#include <algorithm>
#include <cmath>

namespace coterie {
namespace {

/// What every file after the first must agree with.
void agree(PlanInputs& in, const std::string& where, const std::string& model, int experts, int top_k,
           const std::vector<int>& layer_ids) {
  if (in.sources.empty()) {
    in.model = model;
    in.layer_ids = layer_ids;
    in.top_k = top_k;
    return;
  }
  if (experts != in.problem.experts())
    throw bad_field(where, "num_experts", std::to_string(experts),
                    std::to_string(in.problem.experts()) + ", as in " + in.sources.front().file);
  if (layer_ids != in.layer_ids)
    throw bad_field(where, "layer_ids", std::to_string(layer_ids.size()) + " layers that differ",
                    "those of " + in.sources.front().file);
  in.top_k = std::max(in.top_k, top_k);
  if (model != in.model)
    in.warnings.push_back(where + " is of model '" + model + "', the first trace of '" + in.model + "'");
}

void read_loads(const PlanOptions& o, PlanInputs& in) {
  if (o.objective != Objective::load)
    throw bad_field(o.traces.front().path.string(), "format", "coterie.load/1, counts without choices",
                    "coterie.trace/1, or --objective load");
  if (o.holdout > 0) throw bad_field("coterie plan", "--holdout", std::to_string(o.holdout), "none for counts of load");
  if (o.top > 0) throw bad_field("coterie plan", "--top", std::to_string(o.top), "none for counts of load");
  Statistics& sum = in.problem.statistics;
  for (const PlanOptions::Source& source : o.traces) {
    const std::string where = source.path.string();
    if (!is_load_trace(source.path))
      throw bad_field(where, "format", "coterie.trace/1", "coterie.load/1, as the first file");
    const LoadTrace trace = read_load_trace(source.path);
    agree(in, where, trace.model, trace.num_experts, trace.top_k, trace.layer_ids);
    if (o.first >= trace.records())
      throw bad_field("coterie plan", "--window", "first record " + std::to_string(o.first),
                      "less than the " + std::to_string(trace.records()) + " records of " + where);
    const Statistics counted = count(trace, o.first, o.count);
    if (in.sources.empty()) {
      sum = counted;
      sum.tokens = 0;
      std::fill(sum.load.begin(), sum.load.end(), 0.0);
    }
    sum.tokens += source.weight * counted.tokens;
    for (std::size_t i = 0; i < sum.load.size(); ++i) sum.load[i] += source.weight * counted.load[i];
    in.sources.push_back({where, sha256_of_file(source.path), source.weight, o.first, o.count});
  }
}

void read_traces(const PlanOptions& o, PlanInputs& in) {
  std::vector<WeightedTrace> parts;
  for (const PlanOptions::Source& source : o.traces) {
    const std::string where = source.path.string();
    const Trace& trace = *in.held.emplace_back(std::make_unique<Trace>(read_trace(source.path)));
    if (in.sources.empty()) in.problem.statistics.experts = trace.num_experts;
    agree(in, where, trace.model, trace.num_experts, trace.top_k, trace.layer_ids);
    if (o.first >= trace.tokens())
      throw bad_field("coterie plan", "--window", "first token " + std::to_string(o.first),
                      "less than the " + std::to_string(trace.tokens()) + " tokens of " + where);
    if (o.top > 0 && o.top < trace.top_k && trace.gate_order == GateOrder::unordered)
      throw bad_field(where, "gate_order", "unordered", "descending, for --top " + std::to_string(o.top));
    const std::int64_t rest = trace.tokens() - o.first;
    parts.push_back({&trace, source.weight, o.first, o.count < 0 ? rest : std::min(rest, o.count)});
    in.by_gate = in.by_gate || !trace.weights.empty();
    in.sources.push_back({where, sha256_of_file(source.path), source.weight, parts.back().first, parts.back().count});
  }
  in.by_gate = in.by_gate && o.objective == Objective::affinity;
  const CountOptions counting{.by_gate = in.by_gate, .top = o.top, .threads = o.threads};
  in.problem.traces = parts;
  if (o.holdout > 0) {
    Split split = hold_out(parts, o.holdout, o.seed);
    in.problem.traces = std::move(split.fitted);
    in.left_out.emplace();
    in.left_out->traces = std::move(split.left_out);
    in.left_out->statistics = count(in.left_out->traces, counting);
  }
  in.problem.statistics = count(in.problem.traces, counting);
}

void set_slots(const PlanOptions& o, const std::optional<Machine>& machine, Problem& problem) {
  problem.equal_counts = !o.unequal_counts;
  problem.replicas = o.replicas;
  const std::uint64_t memory = o.memory > 0 ? o.memory : machine ? machine->memory_per_rank : 0;
  problem.slots_per_rank = o.slots;
  if (memory > 0 && o.expert_size > 0) {
    // A rank has as many slots at every layer.
    const std::uint64_t fit = memory / (o.expert_size * static_cast<std::uint64_t>(problem.layers()));
    const int needed = problem.slots();
    if (fit < static_cast<std::uint64_t>(needed))
      throw InputError("infeasible: memory: " + bytes_text(static_cast<double>(memory)) + " of a rank hold " +
                       std::to_string(fit) + " experts of each layer, " + std::to_string(needed) + " are needed");
    if (o.slots == 0 && o.unequal_counts)
      problem.slots_per_rank = static_cast<int>(std::min<std::uint64_t>(fit, problem.experts()));
  }
  if (o.unequal_counts && problem.slots_per_rank == 0)
    throw bad_field("coterie plan", "--unequal-counts", "no limit", "--slots, or --memory and --expert-size");
  if (problem.slots_per_rank > problem.experts()) problem.slots_per_rank = problem.experts();
}

/// The usual limit is raised where no placement keeps it; one that was asked for is not. What replicas can do about a
/// layer shows only when they are placed.
void set_balance(const PlanOptions& o, PlanInputs& in) {
  Problem& problem = in.problem;
  problem.balance = o.balance;
  if (!o.balance || o.strict_balance || problem.replicas > 0) return;
  if (problem.objective == Objective::load) {
    problem.balance.reset();
    return;
  }
  const LightestLayer lightest = lightest_of_worst_layer(problem, o.seed);
  if (lightest.over_mean <= *o.balance) return;
  problem.balance = std::ceil(lightest.over_mean * 1000 + 1) / 1000;
  in.warnings.push_back("the load limit of " + fixed(*o.balance, 2) + " can't be kept: at layer " +
                        std::to_string(in.layer_ids[lightest.layer]) + " the heaviest rank has " +
                        fixed(lightest.over_mean, 3) + " times the mean at best; the limit was raised to " +
                        fixed(*problem.balance, 3) + " (--balance sets one, or none)");
}

}  // namespace

PlanInputs read_plan_inputs(const PlanOptions& o) {
  PlanInputs in;
  std::optional<Machine> machine;
  if (!o.machine.empty()) machine = read_machine(o.machine);
  Problem& problem = in.problem;
  problem.objective = o.objective;
  problem.domain = o.domain;
  problem.topology = o.topology;
  problem.prices = o.prices ? *o.prices : machine ? link_prices(*machine) : LinkPrices{};
  problem.top = o.top;
  if (is_load_trace(o.traces.front().path))
    read_loads(o, in);
  else
    read_traces(o, in);
  set_slots(o, machine, problem);
  problem.balance.reset();
  if (const std::string broken = check_feasible(problem); !broken.empty()) throw InputError(broken);
  set_balance(o, in);
  if (in.left_out) {
    Problem rest = problem;
    rest.traces = std::move(in.left_out->traces);
    rest.statistics = std::move(in.left_out->statistics);
    in.left_out = std::move(rest);
  }
  return in;
}

}  // namespace coterie
