// Attention of one layer for the rows on this rank.
#pragma once

#include "runtime/checkpoint/model_spec.hpp"
#include "runtime/layers/freight.hpp"
#include "runtime/layers/scratch.hpp"
#include "runtime/layers/weights.hpp"

namespace coterie {

/// One layer's attention, as a layer of the model has it. All of it outlives the call.
struct AttentionLayer {
  const AttentionSpec& spec;
  const AttentionWeights& weights;
  const KvCache& cache;
  float residual_scale = 1;
};

/// at.x += attention(norm(at.x)), over what the cache holds and these rows themselves, whose K and V it receives.
/// Returns those rows, in memory of `scratch`.
KvRows attend(Device& device, const AttentionLayer& layer, const Batch& batch, const Resident& at, Scratch& scratch);

/// The same for a layer with latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1), whose rows are K without V.
/// Key and value are never expanded: each query goes through its head's key expansion, and the mean of the latent rows
/// through its value expansion. Prompts take the same way as single tokens, so that a row's bits don't depend on it.
KvRows attend_latent(Device& device, const AttentionLayer& layer, const Batch& batch, const Resident& at,
                     Scratch& scratch);

/// Turns x (rows, heads * head_dim) by the positions of these rows of the batch.
void rotate(Device& device, const Tensor& x, int head_dim, const RotarySpec& rotary, const Batch& batch,
            std::span<const std::int32_t> rows);

/// x += scale * (in * weight^T + bias); `bias` may be empty.
void add_projection(Device& device, const Tensor& in, const PackedMatrix& weight, const DeviceArray& bias, float scale,
                    const Tensor& x, Scratch& scratch);

}  // namespace coterie
