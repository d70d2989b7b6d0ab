// The model's forward pass on one rank: embedding, layers, head.
#pragma once

#include "runtime/batch.hpp"
#include "runtime/kv_pool.hpp"
#include "runtime/moe_layer.hpp"

#include <array>
#include <vector>

namespace coterie {

/// What comes out of the head on one rank.
struct Logits {
  std::vector<std::int32_t> rows;  ///< of the batch, ascending
  std::span<const float> values;   ///< (rows, vocabulary)
};

class Transformer {
 public:
  /// All arguments outlive this object.
  Transformer(const ModelSpec& spec, const Weights& weights, KvPool& kv, RankContext& context);

  /// Logits of the sampled rows that end the step on this rank, valid until the next call. Collective: every rank calls
  /// it once a step, also with an empty batch; the ranks of a domain with the same batch.
  [[nodiscard]] Logits forward(const Batch& batch, std::int64_t step, const RoutingObserver& observe);

 private:
  [[nodiscard]] Resident start(const Batch& batch);
  /// Adds attention to x; returns the K and V rows that it computed.
  [[nodiscard]] Freight attention(int layer, const Batch& batch, const Resident& at);
  [[nodiscard]] Logits head(const Batch& batch, const Resident& at);

  const ModelSpec& spec_;
  const Weights& weights_;
  KvPool& kv_;
  RankContext& context_;
  std::array<Scratch, 2> streams_;  ///< the residual stream before and after a layer
  std::vector<MoeLayer> moe_;
  std::vector<float> logits_;
};

}  // namespace coterie
