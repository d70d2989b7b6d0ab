// Qwen2-MoE (Qwen1.5-MoE): a shared expert with a gate, biases of q, k and v, dense layers between.
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

/// Whether a layer sees a sliding window only.
std::vector<bool> sliding_layers(const ConfigFile& config) {
  const std::int64_t layers = read_layer_count(config);
  const bool slides = config.flag("use_sliding_window", false);
  const std::int64_t last = config.between("max_window_layers", 0, kMostLayers, 28);
  if (config.has("layer_types")) return read_sliding_layers(config);
  std::vector<bool> out;
  for (std::int64_t l = 0; l < layers; ++l) out.push_back(slides && l % 2 == 0 && l < last);
  return out;
}

ModelSpec qwen2_moe(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  AttentionShape shape = read_attention_shape(config);
  const RotarySpec rotary = read_rotary(config, shape.head_dim);
  const std::vector<bool> slides = sliding_layers(config);
  const bool bias = config.flag("qkv_bias", true);
  const std::int64_t width = config.positive("moe_intermediate_size");
  const std::int64_t shared_width = config.positive("shared_expert_intermediate_size");
  const std::int64_t dense_width = config.positive("intermediate_size");

  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    const std::string mlp = layer_prefix(l) + "mlp.";
    shape.window = slides[l] ? static_cast<int>(config.positive("sliding_window")) : 0;
    LayerSpec& layer = add_layer(spec, shape, rotary);
    if (bias) add_qkv_bias(layer.attention, layer_prefix(l) + "self_attn.");
    if (!has_experts(config, l)) {
      layer.dense = separate_mlp(mlp, spec.hidden, dense_width);
      continue;
    }
    layer.moe = separate_experts(mlp, read_expert_count(config, "num_experts", l), spec.hidden, width,
                                 config.flag("norm_topk_prob", false));
    layer.moe->shared = {separate_mlp(mlp + "shared_expert.", spec.hidden, shared_width),
                         {whole(mlp + "shared_expert_gate.weight", {1, spec.hidden})}};
  }
  config.ignore({"sliding_window"});  // where no layer slides
  return spec;
}

}  // namespace

const Family kQwen2Moe{"qwen2_moe", qwen2_moe};

}  // namespace coterie
