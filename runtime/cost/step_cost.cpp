#include "runtime/cost/step_cost.hpp"

#include <algorithm>
#include <cmath>

namespace coterie {
namespace {

constexpr double kTagBytes = 8;        // of a row: its number and its landing rank
constexpr double kRouteBytes = 12;     // of a choice
constexpr double kSumLabelBytes = 12;  // of a partial sum
constexpr double kLabelBytes = 4;      // of a row of freight

/// Chance that `drawn` of `all` things miss all of `marked` of them.
double missed(double all, double marked, int drawn) {
  double chance = 1;
  for (int i = 0; i < drawn; ++i) chance *= std::max(0.0, all - marked - i) / (all - i);
  return chance;
}

/// Chance that `drawn` of `all` things are all among `marked` of them.
double all_among(double all, double marked, int drawn) {
  double chance = 1;
  for (int i = 0; i < drawn; ++i) chance *= std::max(0.0, marked - i) / (all - i);
  return chance;
}

/// Rows that a layer sends for one decode row, over all ranks, and how often its ranks talk.
struct RowTraffic {
  double rows = 0;  ///< to experts, or to where the row goes on
  double sums = 0;
  double freight = 0;
  double sums_needed = 1;  ///< chance that the row has partial sums elsewhere than where it goes on
};

RowTraffic traffic_of(const ModelCosts& m, double ranks, double domain, const StepForm& form) {
  const double distinct = distinct_ranks(m.experts, m.top_k, static_cast<int>(ranks));
  const double held = m.experts / ranks;
  if (domain <= 1) {
    const double away = distinct * (1 - 1 / ranks);
    return {away, away, 0, 1};
  }
  if (form.replicate) {
    const double inside = distinct * domain / ranks;
    return {distinct - inside, inside * (domain - 1) + (distinct - inside) * domain, domain - 1, 1};
  }
  const double lands = 1 - missed(m.experts, held * domain, m.top_k);  // on a rank that computes for it
  const double alone = domain * all_among(m.experts, held, m.top_k);   // all its experts on one rank of the domain
  return {distinct * (1 - 1 / ranks) + (1 - lands) * (1 - 1 / domain), distinct - lands, domain - 1, 1 - alone};
}

/// The most rows on a rank when `rows` fall on `ranks` at random.
double heaviest(double rows, double ranks) {
  const double mean = rows / ranks;
  return std::min(rows, mean + std::sqrt(2 * mean * std::log(ranks)));
}

double product_seconds(const Machine& machine, double flop_of_row, double rows) {
  return rows <= 0 ? 0 : flop_of_row * rows / machine.gemm_rate(std::max(1.0, rows));
}

/// Seconds of a layer's experts on a rank, for `rows` rows of the job.
double expert_seconds(const ModelCosts& m, const Machine& machine, double rows, double ranks) {
  const double pairs = rows * m.top_k / ranks;
  const double held = m.experts / ranks;
  const double with_rows = held * (1 - std::pow(1 - static_cast<double>(m.top_k) / m.experts, rows));
  if (pairs <= 0 || with_rows <= 0) return 0;
  return m.expert_flop * pairs / machine.gemm_rate(std::max(1.0, pairs / with_rows));
}

}  // namespace

double distinct_ranks(int experts, int top_k, int ranks) {
  double distinct = 0;
  for (int r = 0; r < ranks; ++r) {
    const int held = experts / ranks + (r < experts % ranks ? 1 : 0);
    distinct += 1 - missed(experts, held, top_k);
  }
  return distinct;
}

ModelCosts model_costs(const ModelSpec& spec, DType activations) {
  const auto bytes = static_cast<double>(size_of(activations));
  const double layers = spec.moe_layers();
  const bool tied = spec.head.tensor == spec.embedding.tensor;
  const auto head = static_cast<double>(spec.vocabulary * spec.hidden);
  double context = 0;
  for (const LayerSpec& layer : spec.layers) context += 4 * static_cast<double>(layer.attention.q_width());
  ModelCosts costs;
  costs.layers = spec.moe_layers();
  costs.experts = spec.experts();
  costs.top_k = spec.top_k();
  costs.row_bytes = static_cast<double>(spec.hidden) * bytes;
  costs.kv_bytes = static_cast<double>(spec.kv_elements_per_token()) * bytes / layers;
  costs.dense_flop = 2 * (static_cast<double>(spec.dense_parameters()) - (tied ? 1 : 2) * head) / layers;
  costs.context_flop = context / layers;
  costs.expert_flop = 2 * static_cast<double>(spec.expert_parameters()) / (layers * costs.experts);
  costs.head_flop = 2 * head;
  return costs;
}

StepCost predict(const ModelCosts& m, const Cluster& cluster, const StepForm& form, const StepLoad& load) {
  const Machine& machine = cluster.machine;
  const Topology& topology = cluster.topology;
  const double ranks = topology.ranks();
  const double on_node = *std::max_element(topology.ranks_per_node.begin(), topology.ranks_per_node.end());
  const double domain = form.coherence == Coherence::rank ? 1 : form.coherence == Coherence::node ? on_node : ranks;
  const bool replicates = form.replicate && domain > 1;
  const RowTraffic traffic = traffic_of(m, ranks, domain, form);
  StepCost cost;

  // Messages. Every rank hears from every other in an exchange, so the slowest link's latency counts.
  const Link& far = machine.between_nodes ? *machine.between_nodes : machine.inside_node;
  const bool one_node = topology.nodes() == 1;
  const double sums_follow = 1 - std::pow(1 - traffic.sums_needed, load.rows);
  if (ranks == 1) {
    cost.exchanges = 0;
  } else if (form.micro_batches > 1) {
    cost.exchanges = form.micro_batches + sums_follow / m.layers;
  } else if (replicates && domain == ranks) {
    cost.exchanges = 1;
  } else {
    cost.exchanges = 1 + sums_follow;
  }
  const double row = m.row_bytes + kTagBytes + kRouteBytes * m.top_k;
  const double spread = (traffic.rows * row + traffic.sums * (m.row_bytes + kSumLabelBytes)) * load.rows / ranks;
  const double freight = traffic.freight * (replicates ? load.prompt_rows : 1 + load.prompt_rows) *
                         (m.kv_bytes + kLabelBytes) * load.rows / ranks;
  const double inside = one_node ? 1 : (on_node - 1) / std::max(1.0, ranks - 1);  // share of other ranks on the node
  const double freight_inside = form.coherence == Coherence::world ? inside : 1;
  cost.bytes = spread + freight;
  const double latency = one_node ? machine.inside_node.latency : far.latency;
  cost.exchange = m.layers * (cost.exchanges * latency +
                              (spread * inside + freight * freight_inside) / machine.inside_node.bandwidth +
                              (spread * (1 - inside) + freight * (1 - freight_inside)) / far.bandwidth);

  // Work of the rank that has most of it.
  const double dense_rows = replicates    ? load.rows * domain / ranks
                            : domain <= 1 ? load.rows / ranks
                                          : heaviest(load.rows * domain / ranks, domain);
  const double parts = form.micro_batches;
  cost.dense = parts * m.layers * product_seconds(machine, m.dense_flop, dense_rows / parts) +
               m.layers * m.context_flop * load.context * dense_rows / machine.gemm_rate(1) +
               product_seconds(machine, m.head_flop, std::ceil(load.rows / ranks));
  cost.experts = parts * m.layers * expert_seconds(m, machine, load.rows / parts, ranks);
  cost.seconds = cost.exchange + cost.dense + cost.experts;
  return cost;
}

}  // namespace coterie
