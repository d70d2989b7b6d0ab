// MiniMax-M2: norms over the whole of q and of k, part of each head turned, sigmoid scores with a bias for the choice.
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

ModelSpec minimax_m2(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  const AttentionShape shape = read_attention_shape(config);
  const double partial = static_cast<double>(config.positive("rotary_dim", shape.head_dim)) / shape.head_dim;
  const RotarySpec rotary = read_rotary(config, shape.head_dim, {.theta = 5000000, .partial = partial});
  const std::int64_t width = config.positive("intermediate_size");
  config.expect_flag("use_qk_norm", true);
  config.expect("qk_norm_type", "per_layer");
  config.expect("scoring_func", "sigmoid");
  config.expect_flag("use_routing_bias", true);
  for (const std::int32_t full : config.integers("attn_type_list")) {
    if (full != 1) config.fail("attn_type_list", "1 for every layer: attention over all positions");
  }
  if (config.between("shared_intermediate_size", 0, 1 << 30, 0) > 0) config.fail("shared_intermediate_size", "0");
  config.ignore({"shared_moe_mode", "mlp_intermediate_size", "use_mtp", "num_mtp_modules", "mtp_transformer_layers",
                 "layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta",
                 "attention_chunk_size", "max_model_len"});

  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    const std::string self = layer_prefix(l) + "self_attn.";
    const std::string block = layer_prefix(l) + "block_sparse_moe.";
    LayerSpec& layer = add_layer(spec, shape, rotary);
    AttentionSpec& attention = layer.attention;
    attention.q_norm = rms_norm(self + "q_norm.weight", attention.q_width(), spec.norm_epsilon);
    attention.k_norm = rms_norm(self + "k_norm.weight", attention.kv_width(), spec.norm_epsilon);
    const ExpertCount count = read_expert_count(config, "num_local_experts", l);
    layer.moe = separate_experts(block, count, spec.hidden, width, true, {"w1", "w3", "w2"});
    layer.moe->router.scoring = Scoring::sigmoid;
    layer.moe->router_correction = {column(block + "e_score_correction_bias", count.outputs())};
  }
  return spec;
}

}  // namespace

const Family kMiniMaxM2{"minimax_m2", minimax_m2};

}  // namespace coterie
