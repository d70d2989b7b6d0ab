// OLMoE: norms over the whole of q and of k, router weights normalised or not, optional clip_qkv.
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

ModelSpec olmoe(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  const AttentionShape shape = read_attention_shape(config);
  const RotarySpec rotary = read_rotary(config, shape.head_dim);
  const bool bias = config.flag("attention_bias", false);
  const double clip = config.number("clip_qkv", 0);
  if (config.has("clip_qkv") && clip <= 0) config.fail("clip_qkv", "a positive number or null");
  const std::int64_t width = config.positive("intermediate_size");

  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    const std::string self = layer_prefix(l) + "self_attn.";
    LayerSpec& layer = add_layer(spec, shape, rotary);
    AttentionSpec& attention = layer.attention;
    if (bias) add_qkv_bias(attention, self);
    if (bias) add_out_bias(attention, self);
    attention.clip = static_cast<float>(clip);
    attention.q_norm = rms_norm(self + "q_norm.weight", attention.q_width(), spec.norm_epsilon);
    attention.k_norm = rms_norm(self + "k_norm.weight", attention.kv_width(), spec.norm_epsilon);
    layer.moe = separate_experts(layer_prefix(l) + "mlp.", read_expert_count(config, "num_experts", l), spec.hidden,
                                 width, config.flag("norm_topk_prob", false));
  }
  return spec;
}

}  // namespace

const Family kOlmoe{"olmoe", olmoe};

}  // namespace coterie
