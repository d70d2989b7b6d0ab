// Model families: each turns a config.json into a ModelSpec. One file a family; this is where they are found by name.
#pragma once

#include "runtime/checkpoint/config_file.hpp"
#include "runtime/checkpoint/model_spec.hpp"
#include "runtime/checkpoint/rotary.hpp"

#include <filesystem>
#include <string_view>
#include <vector>

namespace coterie {

/// More than any model has; a wrong number is refused before memory is spent on it.
constexpr std::int64_t kMostLayers = 4096, kMostExperts = 65535;

struct Family {
  std::string_view model_type;  ///< as config.json names it
  ModelSpec (*spec)(const ConfigFile& config);
};

extern const Family kDeepseekV2;
extern const Family kDeepseekV3;
extern const Family kDots1;
extern const Family kErnie45Moe;
extern const Family kGlm4Moe;
extern const Family kGlm4MoeLite;
extern const Family kGptOss;
extern const Family kGraniteMoe;
extern const Family kGraniteMoeShared;
extern const Family kKimiK2;
extern const Family kMiniMaxM2;
extern const Family kMixtral;
extern const Family kOlmoe;
extern const Family kPhiMoe;
extern const Family kQwen2Moe;
extern const Family kQwen3Moe;
extern const Family kSolarOpen;

/// Reads DIR/config.json (and the end tokens of DIR/generation_config.json where there is one).
/// Throws InputError for an unknown model_type (with the list of those supported), a field that is wrong, or one that
/// is not known and may change what the model computes.
[[nodiscard]] ModelSpec read_model_spec(const std::filesystem::path& directory);

/// What families share: sizes, norm, rotary embedding, embedding and head. Layers are the family's to add.
/// `tied` says whether the head is the embedding again where the config doesn't.
[[nodiscard]] ModelSpec common_spec(const ConfigFile& config, bool tied = false);

/// Separate q, k, v and o projections below `prefix` ("model.layers.0.self_attn."), no biases, scores scaled by
/// head_dim^-1/2. Norms and limits are the family's to add.
[[nodiscard]] AttentionSpec separate_projections(const std::string& prefix, std::int64_t hidden,
                                                 const AttentionShape& shape);
/// heads, kv_heads and head_dim as the config's usual fields give them. Throws InputError when they don't fit.
[[nodiscard]] AttentionShape read_attention_shape(const ConfigFile& config);

}  // namespace coterie
