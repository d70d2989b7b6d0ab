// Phi-3.5-MoE: LayerNorms with biases, biases everywhere in attention and on the head, SparseMixer routing.
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

NormSpec layer_norm(NormSpec norm, const std::string& bias) {
  norm.bias = {column(bias, norm.weight.cols)};
  norm.centred = true;
  return norm;
}

ModelSpec phimoe(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  spec.final_norm = layer_norm(spec.final_norm, "model.norm.bias");
  if (config.flag("lm_head_bias", false)) spec.head_bias = {column("lm_head.bias", spec.vocabulary)};
  AttentionShape shape = read_attention_shape(config);
  shape.window = static_cast<int>(config.positive("sliding_window", 0));
  const RotarySpec rotary = read_rotary(config, shape.head_dim, {.theta = 1000000});
  const bool bias = config.flag("attention_bias", false);
  const std::int64_t width = config.positive("intermediate_size");
  config.ignore({"input_jitter_noise", "expert_dropout", "original_max_position_embeddings"});

  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    const std::string prefix = layer_prefix(l);
    LayerSpec& layer = add_layer(spec, shape, rotary);
    layer.attention.norm = layer_norm(layer.attention.norm, prefix + "input_layernorm.bias");
    layer.mlp_norm = layer_norm(layer.mlp_norm, prefix + "post_attention_layernorm.bias");
    if (bias) add_qkv_bias(layer.attention, prefix + "self_attn.");
    if (bias) add_out_bias(layer.attention, prefix + "self_attn.");
    const ExpertCount count = read_expert_count(config, "num_local_experts", l);
    if (count.top_k != 2) config.fail("num_experts_per_tok", "2, as SparseMixer chooses");
    layer.moe = separate_experts(prefix + "block_sparse_moe.", count, spec.hidden, width, false, {"w1", "w3", "w2"});
    layer.moe->router.scoring = Scoring::sparse_mixer;
    layer.moe->router.jitter = static_cast<float>(config.number("router_jitter_noise", 0.01));
  }
  return spec;
}

}  // namespace

const Family kPhiMoe{"phimoe", phimoe};

}  // namespace coterie
