// The model's forward pass on one rank: embedding, layers, head.
#pragma once

#include "runtime/batch.hpp"
#include "runtime/kv_pool.hpp"
#include "runtime/moe_layer.hpp"

#include <vector>

namespace coterie {

class Transformer {
 public:
  /// All arguments outlive this object.
  Transformer(const ModelSpec& spec, const Weights& weights, KvPool& kv, RankContext& context);

  /// Logits of the sampled rows, (sampled, vocabulary), valid until the next call. Collective: every rank calls it once
  /// a step, also with an empty batch.
  [[nodiscard]] std::span<const float> forward(const Batch& batch, std::int64_t step, const RoutingObserver& observe);

 private:
  void attention(int layer, const Tensor& x, const Batch& batch);
  [[nodiscard]] std::span<const float> head(const Tensor& x, const Batch& batch);

  const ModelSpec& spec_;
  const Weights& weights_;
  KvPool& kv_;
  RankContext& context_;
  Scratch rows_;  ///< the residual stream, through all layers
  std::vector<MoeLayer> moe_;
  std::vector<float> logits_;
};

}  // namespace coterie
