// Granite MoE, and with a shared expert: multipliers, softmax over the chosen experts' logits, experts of a layer in
// two tensors.
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

/// The factor of that name, 1 when the config has none.
float factor(const ConfigFile& config, const std::string& field) {
  const double value = config.number(field, 1);
  if (value == 0) config.fail(field, "a number other than 0");
  return static_cast<float>(value);
}

/// One matrix or a stack of them whose rows are those of gate, then those of up.
ExpertRef fused_mlp(const WeightRef& gate_up, const WeightRef& down) {
  const std::int64_t width = gate_up.rows / 2;
  return {gate_up.row_range(0, width), gate_up.row_range(width, width), down};
}

MoeSpec fused_experts(const ConfigFile& config, const std::string& prefix, std::int64_t layer, std::int64_t hidden) {
  const std::int64_t width = config.positive("intermediate_size");
  const ExpertCount count = read_expert_count(config, "num_local_experts", layer);
  MoeSpec moe;
  moe.router = count.router(false);
  moe.router.scoring = Scoring::softmax_of_chosen;
  moe.router_weight = whole(prefix + "router.layer.weight", {count.outputs(), hidden});
  for (std::int64_t e = 0; e < count.experts; ++e) {
    moe.experts.push_back(fused_mlp(one_of(prefix + "input_linear.weight", {count.experts, 2 * width, hidden}, e),
                                    one_of(prefix + "output_linear.weight", {count.experts, hidden, width}, e)));
  }
  return moe;
}

ModelSpec granitemoe(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  spec.embedding_scale = factor(config, "embedding_multiplier");
  spec.residual_scale = factor(config, "residual_multiplier");
  spec.logits_scale = 1 / factor(config, "logits_scaling");
  AttentionShape shape = read_attention_shape(config);
  shape.scale = factor(config, "attention_multiplier");
  const RotarySpec rotary = read_rotary(config, shape.head_dim);
  const bool bias = config.flag("attention_bias", false);

  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    const std::string self = layer_prefix(l) + "self_attn.";
    LayerSpec& layer = add_layer(spec, shape, rotary);
    if (bias) add_qkv_bias(layer.attention, self);
    if (bias) add_out_bias(layer.attention, self);
    layer.moe = fused_experts(config, layer_prefix(l) + "block_sparse_moe.", l, spec.hidden);
  }
  return spec;
}

ModelSpec granitemoeshared(const ConfigFile& config) {
  ModelSpec spec = granitemoe(config);
  const std::int64_t width = config.between("shared_intermediate_size", 0, std::int64_t{1} << 31, 0);
  for (std::int64_t l = 0; width > 0 && l < static_cast<std::int64_t>(spec.layers.size()); ++l) {
    const std::string shared = layer_prefix(l) + "shared_mlp.";
    spec.layers[l].moe->shared = {fused_mlp(whole(shared + "input_linear.weight", {2 * width, spec.hidden}),
                                            whole(shared + "output_linear.weight", {spec.hidden, width})),
                                  {}};
  }
  return spec;
}

}  // namespace

const Family kGraniteMoe{"granitemoe", granitemoe};
const Family kGraniteMoeShared{"granitemoeshared", granitemoeshared};

}  // namespace coterie
