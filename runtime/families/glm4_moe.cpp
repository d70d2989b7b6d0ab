// GLM-4.5, and dots.llm1 and Solar Open which differ in attention: leading dense layers, then shared experts beside
// those that DeepSeek-V3's router chooses.
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

/// Dense MLPs in the first layers, `leading_dense` where the config doesn't say how many, experts in the others.
void add_mlps(const ConfigFile& config, ModelSpec& spec, std::int64_t leading_dense,
              const GroupedRouterDefaults& defaults = {}) {
  config.expect("topk_method", "noaux_tc");
  if (config.has("scoring_func") && config.text("scoring_func") != "sigmoid") config.expect("scoring_func", "noaux_tc");
  if (config.positive("moe_layer_freq", 1) != 1) config.fail("moe_layer_freq", "1");
  const std::int64_t first = config.between("first_k_dense_replace", 0, kMostLayers, leading_dense);
  const std::int64_t width = config.positive("moe_intermediate_size");
  const std::int64_t shared_width = width * config.between("n_shared_experts", 0, kMostExperts, 0);
  for (std::int64_t l = 0; l < static_cast<std::int64_t>(spec.layers.size()); ++l) {
    const std::string mlp = layer_prefix(l) + "mlp.";
    if (l < first) {
      spec.layers[l].dense = separate_mlp(mlp, spec.hidden, config.positive("intermediate_size"));
      continue;
    }
    MoeSpec& moe = spec.layers[l].moe.emplace(
        separate_experts(mlp, read_expert_count(config, "n_routed_experts", l), spec.hidden, width, true));
    read_grouped_router(config, moe, mlp, defaults);
    if (shared_width > 0) moe.shared = {separate_mlp(mlp + "shared_experts.", spec.hidden, shared_width), {}};
  }
  config.ignore({"intermediate_size", "num_nextn_predict_layers", "num_mtp_layers", "ep_size", "use_sliding_window"});
}

ModelSpec glm4_moe(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  const AttentionShape shape = read_attention_shape(config);
  const RotarySpec rotary = read_rotary(config, shape.head_dim, {.partial = 0.5});
  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    const std::string self = layer_prefix(l) + "self_attn.";
    AttentionSpec& attention = add_layer(spec, shape, rotary).attention;
    if (config.flag("attention_bias", false)) add_qkv_bias(attention, self);
    if (config.flag("use_qk_norm", false)) add_head_norms(attention, self, spec.norm_epsilon);
  }
  add_mlps(config, spec, 1);
  return spec;
}

ModelSpec solar_open(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  const AttentionShape shape = read_attention_shape(config);
  const RotarySpec rotary = read_rotary(config, shape.head_dim, {.theta = 1000000});
  config.expect_flag("use_qk_norm", false);
  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    AttentionSpec& attention = add_layer(spec, shape, rotary).attention;
    if (config.flag("attention_bias", false)) add_qkv_bias(attention, layer_prefix(l) + "self_attn.");
  }
  add_mlps(config, spec, 0);
  return spec;
}

ModelSpec dots1(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  AttentionShape shape = read_attention_shape(config);
  const RotarySpec rotary = read_rotary(config, shape.head_dim);
  const std::int64_t layers = read_layer_count(config);
  std::vector<bool> slides(layers);
  const std::int64_t first = config.between("max_window_layers", 0, kMostLayers, 62);
  for (std::int64_t l = first; l < layers; ++l) slides[l] = config.has("sliding_window");
  if (config.has("layer_types")) slides = read_sliding_layers(config);
  for (std::int64_t l = 0; l < layers; ++l) {
    const std::string self = layer_prefix(l) + "self_attn.";
    shape.window = slides[l] ? static_cast<int>(config.positive("sliding_window")) : 0;
    AttentionSpec& attention = add_layer(spec, shape, rotary).attention;
    if (config.flag("attention_bias", false)) add_qkv_bias(attention, self);
    if (config.flag("attention_bias", false)) add_out_bias(attention, self);
    add_head_norms(attention, self, spec.norm_epsilon);
  }
  config.ignore({"sliding_window"});  // where no layer slides
  add_mlps(config, spec, 0, {.normalise = false});
  return spec;
}

}  // namespace

const Family kGlm4Moe{"glm4_moe", glm4_moe};
const Family kDots1{"dots1", dots1};
const Family kSolarOpen{"solar_open", solar_open};

}  // namespace coterie
