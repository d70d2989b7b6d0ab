// The weights of one rank in its device's memory: the dense part, and the experts that it holds.
#pragma once

#include "kernels/device.hpp"
#include "runtime/checkpoint/checkpoint.hpp"
#include "runtime/checkpoint/model_spec.hpp"
#include "runtime/layers/norm.hpp"
#include "runtime/layers/ownership.hpp"

#include <memory>
#include <optional>
#include <vector>

namespace coterie {

/// As in LatentSpec; without q_down, queries come from the layer's input.
struct LatentWeights {
  std::unique_ptr<PackedMatrix> q_down;
  DeviceArray q_down_bias;
  Norm q_norm;
  std::unique_ptr<PackedMatrix> q;
  std::unique_ptr<PackedMatrix> kv;
  DeviceArray kv_bias;
  Norm kv_norm;
  std::vector<std::unique_ptr<PackedMatrix>> keys;    ///< (heads)
  std::vector<std::unique_ptr<PackedMatrix>> values;  ///< (heads)
};

struct AttentionWeights {
  Norm norm;
  std::optional<LatentWeights> latent;  ///< instead of qkv
  std::unique_ptr<PackedMatrix> qkv;
  DeviceArray qkv_bias;  ///< biases: empty where the model has none
  std::unique_ptr<PackedMatrix> out;
  DeviceArray out_bias;
  DeviceArray sinks;  ///< (1, heads)
  Norm q_norm;
  Norm k_norm;
};

struct MoeWeights {
  std::unique_ptr<PackedMatrix> router;
  DeviceArray router_bias;
  DeviceArray router_correction;
  std::vector<std::shared_ptr<const ExpertWeights>> experts;  ///< (experts); none where held elsewhere
  std::unique_ptr<ExpertWeights> shared;                      ///< none where the model has none
  std::unique_ptr<PackedMatrix> shared_gate;                  ///< the same
};

struct LayerWeights {
  AttentionWeights attention;
  Norm mlp_norm;
  MoeWeights moe;       ///< of a layer with experts
  ExpertWeights dense;  ///< of a dense layer
};

struct Weights {
  DeviceArray embedding;  ///< (vocabulary, hidden)
  Norm final_norm;
  std::unique_ptr<PackedMatrix> head;
  DeviceArray head_bias;
  std::vector<LayerWeights> layers;
};

/// Memory that weights take: what every rank has, and all experts together.
struct WeightBytes {
  std::int64_t dense = 0;
  std::int64_t experts = 0;
};
/// `checkpoint`: may be none; then as if no weight fitted bf16. Throws InputError when it doesn't fit the spec.
[[nodiscard]] WeightBytes weight_bytes(const ModelSpec& spec, const Checkpoint* checkpoint, DType type);

/// Reads what this rank owns, packing each matrix as it is read. With `type` f32, what fits bf16 is kept so all the
/// same: it is read again as the same numbers.
/// The device must outlive the result. Throws InputError when the checkpoint doesn't fit the spec.
[[nodiscard]] Weights load_weights(const ModelSpec& spec, const Checkpoint& checkpoint, const Ownership& ownership,
                                   Device& device, DType type);

}  // namespace coterie
