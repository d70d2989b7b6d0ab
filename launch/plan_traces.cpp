#include "launch/plan_traces.hpp"

#include "launch/inspection.hpp"
#include "placement/files/digest.hpp"
#include "placement/input_error.hpp"
#include "placement/trace/holdout.hpp"
#include "placement/trace/load_trace.hpp"

#include <algorithm>
#include <utility>

namespace coterie {
namespace {

/// A file, and which of the plan's sources it is: one behind the last for a stranger.
struct Given {
  std::filesystem::path path;
  std::size_t source = 0;
};

/// In the order of the sources, each of which is matched once.
std::vector<Given> matched(const Plan& plan, const std::vector<std::filesystem::path>& paths) {
  std::vector<Given> files;
  std::vector<bool> taken(plan.sources.size(), false);
  for (const auto& path : paths) {
    const std::string digest = sha256_of_file(path);
    std::size_t s = 0;
    while (s < plan.sources.size() && (taken[s] || plan.sources[s].digest != digest)) ++s;
    if (s < plan.sources.size()) taken[s] = true;
    files.push_back({path, s});
  }
  std::stable_sort(files.begin(), files.end(), [](const Given& a, const Given& b) { return a.source < b.source; });
  return files;
}

void check_shape(const Plan& plan, const std::string& where, int experts, const std::vector<int>& layer_ids) {
  if (experts != plan.experts) {
    throw bad_field(where, "num_experts", std::to_string(experts), std::to_string(plan.experts) + ", as the plan has");
  }
  if (layer_ids != plan.layer_ids) {
    throw bad_field(where, "layer_ids", ranges_text(layer_ids), ranges_text(plan.layer_ids) + ", as the plan has");
  }
}

void add_loads(const Plan& plan, const Given& file, const PlanSource& source, Statistics& loads) {
  const LoadTrace trace = read_load_trace(file.path);
  check_shape(plan, file.path.string(), trace.num_experts, trace.layer_ids);
  const Statistics counted = count(trace, source.first, source.count);
  if (loads.load.empty()) {
    loads = counted;
    loads.tokens = 0;
    std::fill(loads.load.begin(), loads.load.end(), 0.0);
  }
  loads.tokens += source.weight * counted.tokens;
  for (std::size_t i = 0; i < loads.load.size(); ++i) loads.load[i] += source.weight * counted.load[i];
}

}  // namespace

PlanTraces read_plan_traces(const Plan& plan, const std::vector<std::filesystem::path>& paths) {
  PlanTraces traces;
  const std::vector<Given> files = matched(plan, paths);
  const bool loads = !files.empty() && is_load_trace(files.front().path);
  for (std::size_t s = 0; s < plan.sources.size(); ++s) {
    const bool given = std::any_of(files.begin(), files.end(), [&](const Given& g) { return g.source == s; });
    if (!given) traces.missing.push_back(plan.sources[s].file);
  }
  for (const Given& file : files) {
    const bool stranger = file.source == plan.sources.size();
    const PlanSource source = stranger ? PlanSource{} : plan.sources[file.source];
    if (stranger) traces.strangers.push_back(file.path.string());
    if (is_load_trace(file.path) != loads) {
      throw bad_field(file.path.string(), "format", loads ? "coterie.trace/1" : "coterie.load/1",
                      "the same as of the other --trace");
    }
    if (loads) {
      add_loads(plan, file, source, traces.loads);
      continue;
    }
    const Trace& trace = *traces.held.emplace_back(std::make_unique<Trace>(read_trace(file.path)));
    check_shape(plan, file.path.string(), trace.num_experts, trace.layer_ids);
    traces.fitted.push_back({&trace, source.weight, source.first, source.count});
  }
  const bool same_as_fitted = traces.strangers.empty() && traces.missing.empty();
  if (!loads && same_as_fitted && plan.certificate && plan.certificate->holdout > 0) {
    Split split = hold_out(traces.fitted, plan.certificate->holdout, plan.certificate->seed);
    traces.fitted = std::move(split.fitted);
    traces.left_out = std::move(split.left_out);
  }
  return traces;
}

}  // namespace coterie
