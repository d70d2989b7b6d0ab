// What a decode step is predicted to take in each form of context coherence. Pure: seconds from shapes and rates.
#pragma once

#include "placement/machine.hpp"
#include "placement/topology.hpp"
#include "runtime/checkpoint/model_spec.hpp"
#include "runtime/layers/domains.hpp"

namespace coterie {

/// How a step is computed.
struct StepForm {
  Coherence coherence = Coherence::rank;
  bool replicate = false;  ///< the dense work of decode rows is done on all ranks of the domain
  int micro_batches = 1;   ///< 1 or 2
  friend bool operator==(const StepForm&, const StepForm&) = default;
};

/// A model as costs see it, per token; layers without experts count with those that have some.
struct ModelCosts {
  int layers = 0;  ///< with experts
  int experts = 0;
  int top_k = 0;
  double row_bytes = 0;     ///< of the residual stream
  double kv_bytes = 0;      ///< K and V rows of a layer
  double dense_flop = 0;    ///< of a layer, without the experts and the context
  double context_flop = 0;  ///< of a layer, for each position that attention sees
  double expert_flop = 0;   ///< of one expert
  double head_flop = 0;     ///< of the LM head
};
[[nodiscard]] ModelCosts model_costs(const ModelSpec& spec, DType activations);

/// What the ranks of the job have to do in a step.
struct StepLoad {
  double rows = 0;         ///< decode rows, on all ranks together
  double context = 0;      ///< positions that a row sees
  double prompt_rows = 0;  ///< rows of prompts for each decode row: their K and V are shipped too
};

struct Cluster {
  Topology topology;
  Machine machine;  ///< latency: of an exchange that carries nothing; bandwidth: with all ranks sending
};

struct StepCost {
  double seconds = 0;    ///< all together
  double exchange = 0;   ///< seconds in exchanges
  double dense = 0;      ///< seconds of attention, router and head
  double experts = 0;    ///< seconds of the experts
  double exchanges = 0;  ///< of a layer
  double bytes = 0;      ///< that a rank sends in a layer
};

/// Takes routing as even: a plan that keeps tokens together makes coherence cheaper than this.
/// A form of one rank costs what plain expert parallelism does.
[[nodiscard]] StepCost predict(const ModelCosts& model, const Cluster& cluster, const StepForm& form,
                               const StepLoad& load);

/// Mean number of distinct ranks among a token's choices, all sets of experts as likely and dealt evenly.
[[nodiscard]] double distinct_ranks(int experts, int top_k, int ranks);

}  // namespace coterie
