// Qwen3-MoE: norms over each head of q and k, a head_dim of its own, dense layers between.
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

ModelSpec qwen3_moe(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  AttentionShape shape = read_attention_shape(config);
  if (config.flag("use_sliding_window", false)) shape.window = static_cast<int>(config.positive("sliding_window"));
  config.ignore({"sliding_window", "max_window_layers"});  // where it doesn't slide
  const RotarySpec rotary = read_rotary(config, shape.head_dim);
  const bool bias = config.flag("attention_bias", false);
  config.expect_flag("qkv_bias", false);  // Qwen3-Coder's notes on what it doesn't have
  config.expect_flag("use_qk_norm", true);
  if (config.between("shared_expert_intermediate_size", 0, 1 << 30, 0) > 0) {
    config.fail("shared_expert_intermediate_size", "0");
  }
  const std::string experts = config.either("num_experts", "num_local_experts");
  const std::int64_t width = config.positive("moe_intermediate_size");
  const std::int64_t dense_width = config.positive("intermediate_size");

  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    const std::string self = layer_prefix(l) + "self_attn.";
    LayerSpec& layer = add_layer(spec, shape, rotary);
    if (bias) add_qkv_bias(layer.attention, self);
    if (bias) add_out_bias(layer.attention, self);
    add_head_norms(layer.attention, self, spec.norm_epsilon);
    const std::string mlp = layer_prefix(l) + "mlp.";
    if (has_experts(config, l)) {
      layer.moe = separate_experts(mlp, read_expert_count(config, experts, l), spec.hidden, width,
                                   config.flag("norm_topk_prob", false));
    } else {
      layer.dense = separate_mlp(mlp, spec.hidden, dense_width);
    }
  }
  return spec;
}

}  // namespace

const Family kQwen3Moe{"qwen3_moe", qwen3_moe};

}  // namespace coterie
