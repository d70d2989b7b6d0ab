// Mixtral: softmax over the chosen experts (top-k weights normalised), optional sliding window.
#include "runtime/families/family_parts.hpp"

namespace coterie {
namespace {

ModelSpec mixtral(const ConfigFile& config) {
  ModelSpec spec = common_spec(config);
  AttentionShape shape = read_attention_shape(config);
  shape.window = static_cast<int>(config.positive("sliding_window", 0));
  const RotarySpec rotary = read_rotary(config, shape.head_dim, {.theta = 1000000});
  const std::int64_t width = config.positive("intermediate_size");

  for (std::int64_t l = 0; l < read_layer_count(config); ++l) {
    add_layer(spec, shape, rotary).moe =
        separate_experts(layer_prefix(l) + "block_sparse_moe.", read_expert_count(config, "num_local_experts", l),
                         spec.hidden, width, true, {"w1", "w3", "w2"});
  }
  return spec;
}

}  // namespace

const Family kMixtral{"mixtral", mixtral};

}  // namespace coterie
