#include "runtime/families/deepseek.hpp"

#include <cmath>

namespace coterie {
namespace {

constexpr float kLatentEpsilon = 1e-6F;  ///< of the norms inside latent attention, whatever rms_norm_eps says

/// Rows of the heads' columns that are not rotated, head by head, then of those that are.
StackedRef nope_then_rope(const WeightRef& q, std::int64_t heads, std::int64_t nope, std::int64_t rope) {
  StackedRef out;
  for (std::int64_t h = 0; h < heads; ++h) out.push_back(q.row_range(h * (nope + rope), nope));
  for (std::int64_t h = 0; h < heads; ++h) out.push_back(q.row_range(h * (nope + rope) + nope, rope));
  return out;
}

/// mlp_layer_types, or the first layers and those between every so many.
std::vector<bool> read_dense_layers(const ConfigFile& config, std::int64_t leading_dense) {
  const std::int64_t layers = read_layer_count(config);
  const std::int64_t first = config.between("first_k_dense_replace", 0, kMostLayers, leading_dense);
  const std::int64_t every = config.positive("moe_layer_freq", 1);
  const std::vector<std::string> types = config.texts("mlp_layer_types");
  std::vector<bool> dense;
  for (std::int64_t l = 0; l < layers && types.empty(); ++l) dense.push_back(l < first || l % every != 0);
  for (const std::string& type : types) {
    if (type != "dense" && type != "sparse") config.fail("mlp_layer_types", "\"dense\" or \"sparse\" for each layer");
    dense.push_back(type == "dense");
  }
  if (static_cast<std::int64_t>(dense.size()) != layers) {
    config.fail("mlp_layer_types", "one for each of the " + std::to_string(layers) + " layers");
  }
  return dense;
}

ExpertRef read_mlp(const ConfigFile& config, const std::string& prefix, std::int64_t hidden, std::int64_t width) {
  ExpertRef mlp = separate_mlp(prefix, hidden, width);
  if (config.flag("mlp_bias", false)) add_biases(mlp, prefix);
  return mlp;
}

}  // namespace

void add_latent_attention(const ConfigFile& config, const ModelSpec& spec, const std::string& prefix,
                          AttentionSpec& attention) {
  const std::int64_t heads = attention.shape.heads;
  const bool bias = config.flag("attention_bias", false);
  LatentSpec latent;
  latent.latent = config.positive("kv_lora_rank");
  latent.rope = config.positive("qk_rope_head_dim");
  latent.nope = config.positive("qk_nope_head_dim");
  latent.value = config.positive("v_head_dim");

  const std::int64_t q_rows = heads * (latent.nope + latent.rope);
  if (config.has("q_lora_rank")) {
    const std::int64_t rank = config.positive("q_lora_rank");
    latent.q_down = {whole(prefix + "q_a_proj.weight", {rank, spec.hidden})};
    if (bias) latent.q_down_bias = {column(prefix + "q_a_proj.bias", rank)};
    latent.q_norm = rms_norm(prefix + "q_a_layernorm.weight", rank, kLatentEpsilon);
    latent.q = nope_then_rope(whole(prefix + "q_b_proj.weight", {q_rows, rank}), heads, latent.nope, latent.rope);
  } else {
    latent.q = nope_then_rope(whole(prefix + "q_proj.weight", {q_rows, spec.hidden}), heads, latent.nope, latent.rope);
  }
  latent.kv = whole(prefix + "kv_a_proj_with_mqa.weight", {latent.width(), spec.hidden});
  if (bias) latent.kv_bias = {column(prefix + "kv_a_proj_with_mqa.bias", latent.width())};
  latent.kv_norm = rms_norm(prefix + "kv_a_layernorm.weight", latent.latent, kLatentEpsilon);
  const std::int64_t head = latent.nope + latent.value;
  const WeightRef expansion = whole(prefix + "kv_b_proj.weight", {heads * head, latent.latent});
  for (std::int64_t h = 0; h < heads; ++h) {
    latent.keys.push_back(expansion.row_range(h * head, latent.nope).transposed());
    latent.values.push_back(expansion.row_range(h * head + latent.nope, latent.value));
  }

  attention.shape.scale = attention.rotary.score_factor / std::sqrt(static_cast<float>(latent.nope + latent.rope));
  attention.out = whole(prefix + "o_proj.weight", {spec.hidden, heads * latent.value});
  if (bias) attention.out_bias = {column(prefix + "o_proj.bias", spec.hidden)};
  attention.qkv.clear();
  attention.latent = std::move(latent);
}

ModelSpec deepseek_spec(const ConfigFile& config, const DeepseekOptions& options) {
  ModelSpec spec = common_spec(config);
  const std::int64_t heads = config.positive("num_attention_heads");
  if (config.positive("num_key_value_heads", heads) != heads) {
    config.fail("num_key_value_heads", "num_attention_heads: with latent attention all heads share one row");
  }
  const std::int64_t rope = config.positive("qk_rope_head_dim");
  const RotarySpec rotary = read_rotary(config, rope, {.interleaved = options.interleaved});
  const std::vector<bool> dense = read_dense_layers(config, options.leading_dense);
  const std::int64_t width = config.positive("moe_intermediate_size");
  const std::int64_t shared_width = width * config.between("n_shared_experts", 0, kMostExperts, 0);
  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    const std::string mlp = layer_prefix(l) + "mlp.";
    AttentionShape shape;
    shape.heads = static_cast<int>(heads);
    LayerSpec& layer = add_layer(spec, shape, rotary);
    add_latent_attention(config, spec, layer_prefix(l) + "self_attn.", layer.attention);
    if (dense[l]) {
      layer.dense = read_mlp(config, mlp, spec.hidden, config.positive("intermediate_size"));
      continue;
    }
    MoeSpec& moe = layer.moe.emplace(
        separate_experts(mlp, read_expert_count(config, "n_routed_experts", l), spec.hidden, width, false));
    options.route(moe, mlp);
    if (shared_width > 0) moe.shared = {read_mlp(config, mlp + "shared_experts.", spec.hidden, shared_width), {}};
  }
  config.ignore(
      {"intermediate_size", "head_dim", "qk_head_dim", "num_nextn_predict_layers", "num_mtp_layers", "ep_size"});
  return spec;
}

}  // namespace coterie
