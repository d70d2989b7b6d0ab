// OLMoE: norms over the whole of q and of k, router weights normalised or not, optional clip_qkv.
#include "runtime/family.hpp"

namespace coterie {
namespace {

ModelSpec olmoe(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  const AttentionShape attention = read_attention_shape(config);
  if (config.flag("attention_bias", false)) config.fail("attention_bias", "false");
  const RotarySpec rotary = read_rotary(config, attention.head_dim);
  const double clip = config.number("clip_qkv", 0);
  if (config.has("clip_qkv") && clip <= 0) config.fail("clip_qkv", "a positive number or null");
  const std::int64_t experts = config.count("num_experts", kMostExperts);
  const std::int64_t top_k = config.positive("num_experts_per_tok");
  const std::int64_t width = config.positive("intermediate_size");
  if (top_k > experts) config.fail("num_experts_per_tok", "at most num_experts");

  for (std::int64_t l = 0; l < config.count("num_hidden_layers", kMostLayers); ++l) {
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    const std::string self = layer + "self_attn.";
    LayerSpec out;
    out.attention = separate_projections(self, spec.hidden, attention);
    out.attention.clip = static_cast<float>(clip);
    out.attention.rotary = rotary;
    out.attention.norm = rms_norm(layer + "input_layernorm.weight", spec.hidden, spec.norm_epsilon);
    out.attention.q_norm = rms_norm(self + "q_norm.weight", out.attention.q_width(), spec.norm_epsilon);
    out.attention.k_norm = rms_norm(self + "k_norm.weight", out.attention.kv_width(), spec.norm_epsilon);
    out.mlp_norm = rms_norm(layer + "post_attention_layernorm.weight", spec.hidden, spec.norm_epsilon);
    MoeSpec& moe = out.moe.emplace();
    moe.router = {.top_k = static_cast<int>(top_k), .normalise = config.flag("norm_topk_prob", false)};
    moe.router_weight = whole(layer + "mlp.gate.weight", {experts, spec.hidden});
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::string expert = layer + "mlp.experts." + std::to_string(e) + ".";
      moe.experts.push_back({whole(expert + "gate_proj.weight", {width, spec.hidden}),
                             whole(expert + "up_proj.weight", {width, spec.hidden}),
                             whole(expert + "down_proj.weight", {spec.hidden, width})});
    }
    spec.layers.push_back(std::move(out));
  }
  return spec;
}

}  // namespace

const Family kOlmoe{"olmoe", olmoe};

}  // namespace coterie
