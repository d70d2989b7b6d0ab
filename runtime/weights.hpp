// The weights of one rank in its device's memory: the dense part, and the experts that it holds.
#pragma once

#include "kernels/device.hpp"
#include "runtime/checkpoint.hpp"
#include "runtime/model_spec.hpp"
#include "runtime/ownership.hpp"

#include <memory>
#include <vector>

namespace coterie {

struct LayerWeights {
  DeviceArray attention_norm;  ///< (1, hidden)
  std::unique_ptr<PackedMatrix> qkv;
  std::unique_ptr<PackedMatrix> attention_out;
  DeviceArray q_norm;  ///< no memory where the model has none
  DeviceArray k_norm;
  DeviceArray moe_norm;  ///< (1, hidden)
  std::unique_ptr<PackedMatrix> router;
  std::vector<ExpertWeights> experts;  ///< (experts); empty ones are held elsewhere
};

struct Weights {
  DeviceArray embedding;   ///< (vocabulary, hidden)
  DeviceArray final_norm;  ///< (1, hidden)
  std::unique_ptr<PackedMatrix> head;
  std::vector<LayerWeights> layers;
};

/// Reads what this rank owns, packing each matrix as it is read. `embedding` is kept in `type`.
/// The device must outlive the result. Throws InputError when the checkpoint doesn't fit the spec.
[[nodiscard]] Weights load_weights(const ModelSpec& spec, const Checkpoint& checkpoint, const Ownership& ownership,
                                   Device& device, DType type);

}  // namespace coterie
