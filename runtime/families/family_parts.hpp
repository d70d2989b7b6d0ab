// What descriptions of model families are put together from: layers, experts and their numbers, as most configs and
// checkpoints of the hub spell them.
#pragma once

#include "runtime/families/family.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace coterie {

/// "model.layers.L."
[[nodiscard]] std::string layer_prefix(std::int64_t layer);

/// Adds the next layer to the model: separate projections below "self_attn.", norms before attention and MLP
/// ("input_layernorm", "post_attention_layernorm"). The MLP is the family's to add.
LayerSpec& add_layer(ModelSpec& spec, const AttentionShape& shape, const RotarySpec& rotary);

/// Biases of the projections that `add_layer` made.
void add_qkv_bias(AttentionSpec& attention, const std::string& prefix);
void add_out_bias(AttentionSpec& attention, const std::string& prefix);
/// RMSNorms of each head of q and k: `prefix` + "q_norm.weight", "k_norm.weight".
void add_head_norms(AttentionSpec& attention, const std::string& prefix, float epsilon);

/// Names of an MLP's matrices in the checkpoint.
struct MlpNames {
  const char* gate = "gate_proj";
  const char* up = "up_proj";
  const char* down = "down_proj";
};
[[nodiscard]] ExpertRef separate_mlp(const std::string& prefix, std::int64_t hidden, std::int64_t intermediate,
                                     const MlpNames& names = {});
/// Adds "gate_proj.bias" and so on.
void add_biases(ExpertRef& mlp, const std::string& prefix, const MlpNames& names = {});

/// Experts of a layer and of a token.
struct ExpertCount {
  std::int64_t experts = 0;
  int top_k = 0;
  int null_experts = 0;  ///< outputs of the router after the experts that stand for none

  [[nodiscard]] std::int64_t outputs() const { return experts + null_experts; }
  [[nodiscard]] RouterOptions router(bool normalise) const;
};

/// Of layer `layer`. Where a config has a list instead of a number, it has one for each layer: models whose layers
/// were pruned differently.
[[nodiscard]] ExpertCount read_expert_count(const ConfigFile& config, const std::string& experts_field,
                                            std::int64_t layer, const std::string& top_k_field = "num_experts_per_tok");

/// The router and the experts of a layer with tensors of their own: `prefix` + "gate.weight", "experts.E.gate_proj...".
[[nodiscard]] MoeSpec separate_experts(const std::string& prefix, const ExpertCount& count, std::int64_t hidden,
                                       std::int64_t intermediate, bool normalise, const MlpNames& names = {});

/// num_hidden_layers, within reason.
[[nodiscard]] std::int64_t read_layer_count(const ConfigFile& config);

/// layer_types: whether each layer sees a sliding window only.
[[nodiscard]] std::vector<bool> read_sliding_layers(const ConfigFile& config);

/// decoder_sparse_step and mlp_only_layers: whether a layer has experts.
[[nodiscard]] bool has_experts(const ConfigFile& config, std::int64_t layer);

/// What a config means that doesn't say how experts are chosen.
struct GroupedRouterDefaults {
  bool normalise = true;
  double scale = 1;
  std::int64_t groups = 1;
  std::int64_t top_groups = 1;
};

/// DeepSeek's choice, as its relatives have it: sigmoid scores, a bias for the choice alone
/// ("gate.e_score_correction_bias"), groups (n_group, topk_group), norm_topk_prob and routed_scaling_factor.
void read_grouped_router(const ConfigFile& config, MoeSpec& moe, const std::string& prefix,
                         const GroupedRouterDefaults& defaults = {});

}  // namespace coterie
