#include "runtime/families/family_parts.hpp"

#include <algorithm>

namespace coterie {
namespace {

/// The number that a config has for a layer: the same for all, or the layer's of a list.
std::int64_t of_layer(const ConfigFile& config, const std::string& field, std::int64_t layer, std::int64_t most) {
  if (!config.is_list(field)) return config.count(field, most);
  const std::vector<std::int32_t> list = config.integers(field);
  if (static_cast<std::int64_t>(list.size()) != read_layer_count(config)) {
    config.fail(field, "a number, or one for each of the num_hidden_layers layers");
  }
  const std::int64_t value = list[static_cast<std::size_t>(layer)];
  if (value < 1 || value > most) config.fail(field, "integers between 1 and " + std::to_string(most));
  return value;
}

}  // namespace

std::string layer_prefix(std::int64_t layer) {
  return "model.layers." + std::to_string(layer) + ".";
}

LayerSpec& add_layer(ModelSpec& spec, const AttentionShape& shape, const RotarySpec& rotary) {
  const std::string prefix = layer_prefix(static_cast<std::int64_t>(spec.layers.size()));
  LayerSpec& layer = spec.layers.emplace_back();
  layer.attention = separate_projections(prefix + "self_attn.", spec.hidden, shape);
  layer.attention.rotary = rotary;
  layer.attention.norm = rms_norm(prefix + "input_layernorm.weight", spec.hidden, spec.norm_epsilon);
  layer.mlp_norm = rms_norm(prefix + "post_attention_layernorm.weight", spec.hidden, spec.norm_epsilon);
  return layer;
}

void add_qkv_bias(AttentionSpec& attention, const std::string& prefix) {
  attention.qkv_bias = {column(prefix + "q_proj.bias", attention.q_width()),
                        column(prefix + "k_proj.bias", attention.kv_width()),
                        column(prefix + "v_proj.bias", attention.kv_width())};
}

void add_out_bias(AttentionSpec& attention, const std::string& prefix) {
  attention.out_bias = {column(prefix + "o_proj.bias", attention.out.rows)};
}

void add_head_norms(AttentionSpec& attention, const std::string& prefix, float epsilon) {
  attention.q_norm = rms_norm(prefix + "q_norm.weight", attention.shape.head_dim, epsilon);
  attention.k_norm = rms_norm(prefix + "k_norm.weight", attention.shape.head_dim, epsilon);
}

ExpertRef separate_mlp(const std::string& prefix, std::int64_t hidden, std::int64_t intermediate,
                       const MlpNames& names) {
  return {whole(prefix + names.gate + ".weight", {intermediate, hidden}),
          whole(prefix + names.up + ".weight", {intermediate, hidden}),
          whole(prefix + names.down + ".weight", {hidden, intermediate})};
}

void add_biases(ExpertRef& mlp, const std::string& prefix, const MlpNames& names) {
  mlp.gate_bias = {column(prefix + names.gate + ".bias", mlp.gate.rows)};
  mlp.up_bias = {column(prefix + names.up + ".bias", mlp.up.rows)};
  mlp.down_bias = {column(prefix + names.down + ".bias", mlp.down.rows)};
}

RouterOptions ExpertCount::router(bool normalise) const {
  RouterOptions options;
  options.top_k = top_k;
  options.normalise = normalise;
  options.null_experts = null_experts;
  return options;
}

ExpertCount read_expert_count(const ConfigFile& config, const std::string& experts_field, std::int64_t layer,
                              const std::string& top_k_field) {
  ExpertCount count;
  count.experts = of_layer(config, experts_field, layer, kMostExperts);
  count.top_k = static_cast<int>(of_layer(config, top_k_field, layer, kMostExperts));
  count.null_experts = static_cast<int>(config.between("num_null_experts", 0, kMostExperts, 0));
  if (count.top_k > count.experts) config.fail(top_k_field, "at most " + experts_field);
  return count;
}

MoeSpec separate_experts(const std::string& prefix, const ExpertCount& count, std::int64_t hidden,
                         std::int64_t intermediate, bool normalise, const MlpNames& names) {
  MoeSpec moe;
  moe.router = count.router(normalise);
  moe.router_weight = whole(prefix + "gate.weight", {count.outputs(), hidden});
  for (std::int64_t e = 0; e < count.experts; ++e) {
    moe.experts.push_back(separate_mlp(prefix + "experts." + std::to_string(e) + ".", hidden, intermediate, names));
  }
  return moe;
}

std::int64_t read_layer_count(const ConfigFile& config) {
  return config.count("num_hidden_layers", kMostLayers);
}

std::vector<bool> read_sliding_layers(const ConfigFile& config) {
  std::vector<bool> slides;
  for (const std::string& type : config.texts("layer_types")) {
    if (type != "sliding_attention" && type != "full_attention") {
      config.fail("layer_types", "\"sliding_attention\" or \"full_attention\" for each layer");
    }
    slides.push_back(type == "sliding_attention");
  }
  const std::int64_t layers = read_layer_count(config);
  if (static_cast<std::int64_t>(slides.size()) != layers) {
    config.fail("layer_types", "one for each of the " + std::to_string(layers) + " layers");
  }
  return slides;
}

bool has_experts(const ConfigFile& config, std::int64_t layer) {
  const std::vector<std::int32_t> dense = config.integers("mlp_only_layers");
  const std::int64_t step = config.positive("decoder_sparse_step", 1);
  return (layer + 1) % step == 0 && std::find(dense.begin(), dense.end(), layer) == dense.end();
}

void read_grouped_router(const ConfigFile& config, MoeSpec& moe, const std::string& prefix,
                         const GroupedRouterDefaults& defaults) {
  const auto experts = static_cast<std::int64_t>(moe.experts.size());
  const std::int64_t groups = config.between("n_group", 1, experts, defaults.groups);
  if (experts % groups != 0 || experts / groups < 2)
    config.fail("n_group", "a divisor of the number of experts, with two experts a group at least");
  const std::int64_t top_groups = config.between("topk_group", 1, groups, defaults.top_groups);
  if (moe.router.top_k > top_groups * (experts / groups)) {
    config.fail("topk_group", "groups of at least num_experts_per_tok experts together");
  }
  moe.router.scoring = Scoring::sigmoid;
  moe.router.normalise = config.flag("norm_topk_prob", defaults.normalise);
  moe.router.added_to_sum = 1e-20F;
  moe.router.scale = static_cast<float>(config.number("routed_scaling_factor", defaults.scale));
  moe.router.groups = static_cast<int>(groups);
  moe.router.top_groups = static_cast<int>(top_groups);
  moe.router.group_score = GroupScore::two_largest;
  moe.router_correction = {column(prefix + "gate.e_score_correction_bias", moe.router_weight.rows)};
}

}  // namespace coterie
