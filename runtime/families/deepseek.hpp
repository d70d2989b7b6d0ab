// What the DeepSeek families share: latent attention, leading dense layers, shared experts.
#pragma once

#include "runtime/families/family_parts.hpp"

#include <functional>

namespace coterie {

struct DeepseekOptions {
  bool interleaved = true;         ///< neighbouring columns are rotated against each other
  std::int64_t leading_dense = 0;  ///< layers without experts where the config doesn't say
  /// Says how a layer's experts are chosen; `prefix` is that of its MLP's tensors.
  std::function<void(MoeSpec& moe, const std::string& prefix)> route;
};

/// Everything but the router. Prediction layers that follow the model's own in the files are left out.
[[nodiscard]] ModelSpec deepseek_spec(const ConfigFile& config, const DeepseekOptions& options);

/// Turns attention with its norms, rotary embedding and number of heads into latent attention below `prefix`.
void add_latent_attention(const ConfigFile& config, const ModelSpec& spec, const std::string& prefix,
                          AttentionSpec& attention);

}  // namespace coterie
