// gpt-oss: attention sinks, a sliding window in every other layer, biases everywhere, a clamped gating, gate and up in
// alternating columns of one tensor that holds a layer's experts.
#include "runtime/checkpoint/quantization.hpp"
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

/// What HF transformers takes for a config without rotary parameters: those of the published models.
constexpr const char* kScaling = R"({"rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1,
                                    "truncate": false, "original_max_position_embeddings": 4096})";

/// layer_types, or every other layer from the first on.
std::vector<bool> sliding_layers(const ConfigFile& config) {
  if (config.has("layer_types")) return read_sliding_layers(config);
  std::vector<bool> slides;
  for (std::int64_t l = 0; l < read_layer_count(config); ++l) slides.push_back(l % 2 == 0);
  return slides;
}

Gating read_gating(const ConfigFile& config) {
  const double limit = config.number("swiglu_limit", 7);
  if (limit <= 0) config.fail("swiglu_limit", "a positive number");
  return {static_cast<float>(config.number("swiglu_alpha", 1.702)), 1, static_cast<float>(limit)};
}

/// The experts below `prefix`. As MXFP4 their matrices are stored with the outputs as rows, otherwise the other way
/// round.
std::vector<ExpertRef> experts(const std::string& prefix, std::int64_t count, std::int64_t hidden, std::int64_t width,
                               const Gating& gating, bool mxfp4) {
  const auto matrix = [&](const std::string& name, std::int64_t rows, std::int64_t cols, std::int64_t e) {
    return mxfp4 ? one_of(prefix + name, {count, rows, cols}, e)
                 : one_of(prefix + name, {count, cols, rows}, e).transposed();
  };
  std::vector<ExpertRef> out;
  for (std::int64_t e = 0; e < count; ++e) {
    const WeightRef gate_up = matrix("gate_up_proj", 2 * width, hidden, e);
    const WeightRef bias = one_of(prefix + "gate_up_proj_bias", {count, 2 * width}, e);
    out.push_back({gate_up.row_range(0, width, 2),
                   gate_up.row_range(1, width, 2),
                   matrix("down_proj", hidden, width, e),
                   {bias.row_range(0, width, 2)},
                   {bias.row_range(1, width, 2)},
                   {one_of(prefix + "down_proj_bias", {count, hidden}, e)},
                   gating});
  }
  return out;
}

ModelSpec gpt_oss(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  AttentionShape shape = read_attention_shape(config);
  const RotarySpec rotary = read_rotary(config, shape.head_dim, {.theta = 150000, .scaling = kScaling});
  const Quantization quantization = read_quantization(config);
  const bool bias = config.flag("attention_bias", true);
  const std::vector<bool> slides = sliding_layers(config);
  const Gating gating = read_gating(config);
  const std::int64_t width = config.positive("intermediate_size");
  (void)config.either("num_experts_per_tok", "experts_per_token");  // both, in the published files
  config.ignore({"initial_context_length"});

  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    const std::string self = layer_prefix(l) + "self_attn.";
    const std::string mlp = layer_prefix(l) + "mlp.";
    shape.window = slides[l] ? static_cast<int>(config.positive("sliding_window")) : 0;
    LayerSpec& layer = add_layer(spec, shape, rotary);
    if (bias) add_qkv_bias(layer.attention, self);
    if (bias) add_out_bias(layer.attention, self);
    layer.attention.sinks = {column(self + "sinks", shape.heads)};

    const ExpertCount count = read_expert_count(config, "num_local_experts", l);
    MoeSpec& moe = layer.moe.emplace();
    moe.router = count.router(false);
    moe.router.scoring = Scoring::softmax_of_chosen;
    moe.router_weight = whole(mlp + "router.weight", {count.outputs(), spec.hidden});
    moe.router_bias = {column(mlp + "router.bias", count.outputs())};
    const bool mxfp4 =
        quantization.method == Quantization::Method::mxfp4 && quantization.converts(layer_prefix(l) + "mlp.experts");
    moe.experts = experts(mlp + "experts.", count.experts, spec.hidden, width, gating, mxfp4);
  }
  config.ignore({"sliding_window"});  // where no layer slides
  return spec;
}

}  // namespace

const Family kGptOss{"gpt_oss", gpt_oss};

}  // namespace coterie
