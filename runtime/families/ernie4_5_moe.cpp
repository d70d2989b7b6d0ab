// ERNIE 4.5: neighbouring columns turned together, a bias for the choice of experts alone, shared experts, dense layers
// before and after.
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

ModelSpec ernie4_5_moe(const ConfigFile& config) {
  ModelSpec spec = common_spec(config, true);
  const AttentionShape shape = read_attention_shape(config);
  RotarySpec rotary = read_rotary(config, shape.head_dim, {.theta = 500000});
  rotary.usual.interleaved = true;
  if (rotary.longer) rotary.longer->interleaved = true;
  const bool bias = config.flag("use_bias", false);
  if (bias) spec.head_bias = {column("lm_head.bias", spec.vocabulary)};
  const std::int64_t layers = read_layer_count(config);
  const std::int64_t first = config.between("moe_layer_start_index", 0, kMostLayers, 1);
  const std::int64_t end = config.between("moe_layer_end_index", -1, kMostLayers, -1);
  const std::int64_t last = end < 0 ? layers - 1 : end;
  const std::int64_t interval = config.positive("moe_layer_interval", 1);
  const std::int64_t width = config.positive("moe_intermediate_size");
  const std::int64_t shared_width = width * config.between("moe_num_shared_experts", 0, kMostExperts, 2);
  config.expect("moe_gate", "topk");
  config.expect_flag("use_rmsnorm", true);
  config.expect_flag("is_quantized", false);
  config.ignore({"moe_capacity", "moe_use_aux_free", "num_nextn_predict_layers"});

  for (std::int64_t l = 0; l < layers; ++l) {
    const std::string self = layer_prefix(l) + "self_attn.";
    const std::string mlp = layer_prefix(l) + "mlp.";
    LayerSpec& layer = add_layer(spec, shape, rotary);
    if (bias) add_qkv_bias(layer.attention, self);
    if (bias) add_out_bias(layer.attention, self);
    const auto part = [&](const std::string& prefix, std::int64_t intermediate) {
      ExpertRef out = separate_mlp(prefix, spec.hidden, intermediate);
      if (bias) add_biases(out, prefix);
      return out;
    };
    if (l < first || l > last || (l + 1) % interval != 0) {
      layer.dense = part(mlp, config.positive("intermediate_size"));
      continue;
    }
    const ExpertCount count = read_expert_count(config, "moe_num_experts", l, "moe_k");
    MoeSpec& moe = layer.moe.emplace(separate_experts(mlp, count, spec.hidden, width, true));
    moe.router.least_sum = static_cast<float>(config.number("moe_norm_min", 1e-12));
    moe.router_correction = {whole(mlp + "moe_statics.e_score_correction_bias", {1, count.outputs()})};
    if (shared_width > 0) moe.shared = {part(mlp + "shared_experts.", shared_width), {}};
  }
  config.ignore({"intermediate_size"});  // where no layer is dense
  return spec;
}

}  // namespace

const Family kErnie45Moe{"ernie4_5_moe", ernie4_5_moe};

}  // namespace coterie
