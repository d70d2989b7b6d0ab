#include "runtime/cost/form_choice.hpp"

#include <algorithm>
#include <limits>

namespace coterie {
namespace {

constexpr double kWorthIt = 0.95;  // of the simpler form's cost: predictions are no better than that

/// All forms within the limits, the simplest first.
std::vector<StepForm> forms(const FormLimits& limits, const Topology& topology) {
  std::vector<StepForm> out;
  for (const Coherence coherence : {Coherence::rank, Coherence::node, Coherence::world}) {
    if (limits.coherence.value_or(coherence) != coherence) continue;
    const bool same_as_another = (coherence == Coherence::node && topology.nodes() == 1) ||
                                 (coherence == Coherence::world && topology.ranks() == 1);
    const bool excluded = std::find(limits.excluded.begin(), limits.excluded.end(), coherence) != limits.excluded.end();
    if (!limits.coherence && (same_as_another || excluded)) continue;
    for (const bool replicate : {false, true}) {
      if (coherence == Coherence::rank ? replicate : limits.replicate.value_or(replicate) != replicate) continue;
      for (const int parts : {1, 2}) {
        if (limits.micro_batches.value_or(parts) == parts) out.push_back({coherence, replicate, parts});
      }
    }
  }
  return out;
}

}  // namespace

FormChoice choose_form(const ModelCosts& model, const Cluster& cluster, const FormLimits& limits,
                       const StepLoad& load) {
  StepLoad expected = load;
  expected.rows = std::max(1.0, load.rows);
  FormChoice choice;
  choice.plain = predict(model, cluster, {}, expected);
  choice.cost.seconds = std::numeric_limits<double>::infinity();
  for (const StepForm& form : forms(limits, cluster.topology)) {
    const StepCost cost = predict(model, cluster, form, expected);
    if (cost.seconds < kWorthIt * choice.cost.seconds) {
      choice.form = form;
      choice.cost = cost;
    }
  }
  return choice;
}

const char* to_string(Coherence coherence) noexcept {
  switch (coherence) {
    case Coherence::rank:
      return "rank";
    case Coherence::node:
      return "node";
    case Coherence::world:
      break;
  }
  return "world";
}

std::string to_string(const StepForm& form) {
  std::string text = to_string(form.coherence);
  if (form.replicate) text += ", dense work replicated";
  if (form.micro_batches > 1) text += ", " + std::to_string(form.micro_batches) + " micro-batches";
  return text;
}

}  // namespace coterie
