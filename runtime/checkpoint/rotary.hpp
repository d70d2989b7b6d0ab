// How queries and keys are turned by their positions: what a config.json asks for, in all spellings of the hub.
#pragma once

#include "kernels/device.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace coterie {

class ConfigFile;

/// A layer's rotary embedding. With dynamic NTK and LongRoPE it depends on how long the sequence is. What is in the
/// cache stays turned as it was, so a row's length is the longest that is known when it is computed whatever the
/// batch and the chunking: the prompt's for the rows of a prompt, its own position + 1 for what is generated. With
/// dynamic NTK it is what HF transformers does with one sequence and a cache; with LongRoPE, HF computes a sequence
/// that grows beyond `context` once more, which isn't done here.
struct RotarySpec {
  Rotary usual;                  ///< for sequences of up to `context` tokens; no frequencies: nothing is turned
  std::int64_t context = 0;      ///< 0: of any length
  std::optional<Rotary> longer;  ///< LongRoPE: for longer sequences
  double theta = 0;              ///< dynamic NTK: the base, which longer sequences raise
  double factor = 0;             ///< and how strongly
  float score_factor = 1;        ///< on the softmax scale, in the families that want it (DeepSeek's mscale_all_dim)
  std::int64_t reach = 0;        ///< positions that it is stretched to; 0: the config's max_position_embeddings

  [[nodiscard]] bool depends_on_length() const noexcept { return context > 0; }
  [[nodiscard]] Rotary of_length(std::int64_t tokens) const;
};

/// What a family takes where its config says nothing.
struct RotaryDefaults {
  double theta = 10000;
  double partial = 1;        ///< the share of a head's columns that is turned
  bool interleaved = false;  ///< neighbouring columns are turned against each other, else those of two halves
  std::string layer_type{};  ///< whose parameters to read where rope_parameters has them by type of layer
  std::string scaling{};     ///< rope_parameters (JSON) where the config has none in either spelling
};

/// rope_parameters, or the older rope_scaling, rope_theta and partial_rotary_factor, for heads of `head_dim` columns.
/// Throws InputError for a type (with the list of those supported) or a parameter that is not known.
[[nodiscard]] RotarySpec read_rotary(const ConfigFile& config, std::int64_t head_dim,
                                     const RotaryDefaults& defaults = {});

}  // namespace coterie
