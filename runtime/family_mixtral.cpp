// Mixtral: softmax over the chosen experts (top-k weights normalised), optional sliding window.
#include "runtime/family.hpp"

namespace coterie {
namespace {

ModelSpec mixtral(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  const AttentionShape attention = [&] {
    AttentionShape shape = read_attention_shape(config);
    shape.window = static_cast<int>(config.positive("sliding_window", 0));
    return shape;
  }();
  const RotarySpec rotary = read_rotary(config, attention.head_dim, {.theta = 1e6});
  const std::int64_t experts = config.count("num_local_experts", kMostExperts);
  const std::int64_t top_k = config.positive("num_experts_per_tok");
  const std::int64_t width = config.positive("intermediate_size");
  if (top_k > experts) config.fail("num_experts_per_tok", "at most num_local_experts");

  for (std::int64_t l = 0; l < config.count("num_hidden_layers", kMostLayers); ++l) {
    const std::string layer = "model.layers." + std::to_string(l) + ".";
    const std::string block = layer + "block_sparse_moe.";
    LayerSpec out;
    out.attention = separate_projections(layer + "self_attn.", spec.hidden, attention);
    out.attention.rotary = rotary;
    out.attention.norm = rms_norm(layer + "input_layernorm.weight", spec.hidden, spec.norm_epsilon);
    out.mlp_norm = rms_norm(layer + "post_attention_layernorm.weight", spec.hidden, spec.norm_epsilon);
    MoeSpec& moe = out.moe.emplace();
    moe.router = {.top_k = static_cast<int>(top_k), .normalise = true};
    moe.router_weight = whole(block + "gate.weight", {experts, spec.hidden});
    for (std::int64_t e = 0; e < experts; ++e) {
      const std::string expert = block + "experts." + std::to_string(e) + ".";
      moe.experts.push_back({whole(expert + "w1.weight", {width, spec.hidden}),
                             whole(expert + "w3.weight", {width, spec.hidden}),
                             whole(expert + "w2.weight", {spec.hidden, width})});
    }
    spec.layers.push_back(std::move(out));
  }
  return spec;
}

}  // namespace

const Family kMixtral{"mixtral", mixtral};

}  // namespace coterie
