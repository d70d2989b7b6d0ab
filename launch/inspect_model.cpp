#include "launch/inspection.hpp"
#include "launch/text_page.hpp"
#include "placement/number_text.hpp"
#include "runtime/checkpoint/check_weights.hpp"
#include "runtime/checkpoint/checkpoint.hpp"
#include "runtime/cost/step_cost.hpp"
#include "runtime/families/family.hpp"
#include "runtime/layers/weights.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

namespace coterie {
namespace {

using nlohmann::json;

constexpr double kFloat = 4;
constexpr double kBrainFloat = 2;

/// What a coherence domain of all ranks costs and saves, per token and MoE layer (K and V of dense layers ride with
/// the next one's rows), in elements (design: the price of coherence).
struct CoherencePrice {
  double freight = 0;  ///< K and V rows for the other ranks: c (R - 1)
  double saved = 0;    ///< rows that need not go home: p d, with evenly spread routing
};

CoherencePrice coherence_of(const ModelSpec& spec, int ranks) {
  const auto layers = static_cast<double>(spec.moe_layers());
  const double context = static_cast<double>(spec.kv_elements_per_token()) / layers;
  const double distinct = distinct_ranks(spec.experts(), spec.top_k(), ranks);
  const double remote = distinct - distinct / ranks;  // home is as likely among them as any rank
  return {context * (ranks - 1), remote * static_cast<double>(spec.hidden)};
}

/// Of the fullest rank when experts are dealt evenly.
double bytes_of_rank(const WeightBytes& bytes, const ModelSpec& spec, int ranks) {
  const double share =
      static_cast<double>(spec.expert_parameters(ranks)) / static_cast<double>(spec.expert_parameters());
  return static_cast<double>(bytes.dense) + static_cast<double>(bytes.experts) * share;
}

bool has_weights(const std::filesystem::path& directory) {
  return exists(directory / "model.safetensors") || exists(directory / "model.safetensors.index.json");
}

std::vector<int> rank_counts(const ModelSpec& spec, int asked) {
  if (asked > 0) return {asked};
  std::vector<int> counts;
  for (int ranks = 1; ranks <= spec.experts(); ranks *= 2) counts.push_back(ranks);
  return counts;
}

}  // namespace

Inspection inspect_model(const InspectOptions& options) {
  const ModelSpec spec = read_model_spec(options.subject);
  const bool weights = has_weights(options.subject);
  std::optional<Checkpoint> checkpoint;
  if (weights) {
    checkpoint.emplace(options.subject);
    check_weights(spec, *checkpoint);
  }
  const WeightBytes f32 = weight_bytes(spec, checkpoint ? &*checkpoint : nullptr, DType::f32);
  const WeightBytes bf16 = weight_bytes(spec, nullptr, DType::bf16);
  const auto parameters = static_cast<double>(spec.parameters());
  const auto active = static_cast<double>(spec.active_parameters());
  const auto in_experts = static_cast<double>(spec.expert_parameters());
  const auto kv = static_cast<double>(spec.kv_elements_per_token());
  const int moe_layers = spec.moe_layers();
  const std::int64_t width = spec.layers[spec.moe_layer_ids().front()].moe->experts.front().gate.rows;

  Inspection found;
  TextPage page;
  page.fact("model", options.subject.string());
  page.fact("family", spec.family + ": " + std::to_string(spec.layers.size()) + " layers, hidden size " +
                          grouped(static_cast<double>(spec.hidden)) + ", vocabulary " +
                          grouped(static_cast<double>(spec.vocabulary)));
  page.fact("experts",
            "top " + std::to_string(spec.top_k()) + " of " + std::to_string(spec.experts()) + " at " +
                (moe_layers == static_cast<int>(spec.layers.size()) ? "each layer"
                                                                    : std::to_string(moe_layers) + " of the layers") +
                ", intermediate size " + grouped(static_cast<double>(width)));
  page.fact("parameters", metric(parameters) + " in all, " + metric(active) + " that a token meets; " +
                              percent(in_experts / parameters) + " are experts");
  page.fact("context", grouped(kv) + " elements of K and V a token: " + bytes_text(kv * kFloat) + " as f32, " +
                           bytes_text(kv * kBrainFloat) + " as bf16");
  page.fact("checkpoint", weights ? "every weight is there, of the right shape and type" : "no weights in this folder");
  if (checkpoint) {
    const std::string method(checkpoint->quantization().name());
    page.fact("files", bytes_text(static_cast<double>(checkpoint->bytes())) + " as " + checkpoint->types() +
                           (method == "none" ? "" : ", quantised: " + method));
  }
  found.json = {{"kind", "model"},
                {"directory", options.subject.string()},
                {"family", spec.family},
                {"layers", spec.layers.size()},
                {"hidden", spec.hidden},
                {"vocabulary", spec.vocabulary},
                {"experts", spec.experts()},
                {"top_k", spec.top_k()},
                {"moe_layers", moe_layers},
                {"intermediate", width},
                {"parameters", spec.parameters()},
                {"active_parameters", spec.active_parameters()},
                {"expert_parameters", spec.expert_parameters()},
                {"kv_elements_per_token", spec.kv_elements_per_token()},
                {"checkpoint", weights},
                {"file_bytes", checkpoint ? json(checkpoint->bytes()) : json()},
                {"quantization", checkpoint ? json(checkpoint->quantization().name()) : json()},
                {"by_ranks", json::array()}};

  std::vector<std::vector<std::string>> rows;
  for (const int ranks : rank_counts(spec, options.ranks)) {
    const double held_f32 = bytes_of_rank(f32, spec, ranks);
    const double held_bf16 = bytes_of_rank(bf16, spec, ranks);
    const CoherencePrice coherence = coherence_of(spec, ranks);
    found.json["by_ranks"].push_back({{"ranks", ranks},
                                      {"weight_bytes_f32", held_f32},
                                      {"weight_bytes_bf16", held_bf16},
                                      {"coherent_kv_bytes_per_token_f32", kv * kFloat * ranks},
                                      {"freight_elements_per_token_layer", coherence.freight},
                                      {"saved_elements_per_token_layer", coherence.saved}});
    rows.push_back({std::to_string(ranks), bytes_text(held_f32), bytes_text(held_bf16), bytes_text(kv * kFloat * ranks),
                    grouped(coherence.freight), grouped(coherence.saved)});
  }
  page.table({"ranks", "weights f32", "bf16", "KV a token", "freight", "saved"}, rows);
  page.note(
      "Weights: of the fullest rank, experts dealt evenly, by --dtype; with f32, what fits bf16 takes no more than "
      "with "
      "bf16. KV a token, also of layers with a sliding window: f32, over all ranks, when all of them hold the "
      "context (coherence domain world). Freight: K and V elements that each token and layer then sends to the other "
      "ranks, hidden behind compute; saved: elements of rows that need not go home, for evenly spread routing.");
  found.text = page.text();
  return found;
}

}  // namespace coterie
