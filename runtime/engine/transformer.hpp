// The model's forward pass on one rank: embedding, layers, head.
#pragma once

#include "runtime/experts/moe_layer.hpp"
#include "runtime/experts/own_experts.hpp"
#include "runtime/layers/batch.hpp"
#include "runtime/layers/kv_pool.hpp"

#include <array>
#include <vector>

namespace coterie {

/// What comes out of the head on one rank.
struct Logits {
  std::vector<std::int32_t> rows;  ///< of the batch; a sequence's ascending
  Tensor values;                   ///< (rows, vocabulary), on the device
};

class Transformer {
 public:
  /// All arguments outlive this object.
  /// With two micro-batches the sequences of a step go through each layer in two halves, half a layer apart, and the
  /// partial sums of one ride with the dispatch of the other.
  Transformer(const ModelSpec& spec, const Weights& weights, KvPool& kv, RankContext& context, int micro_batches);

  /// Logits of the sampled rows that end the step on this rank, valid until the next call. Collective: every rank calls
  /// it once a step, also with an empty batch; the ranks of a domain with the same batch.
  [[nodiscard]] Logits forward(const Batch& batch, std::int64_t step, const RoutingObserver& observe);
  /// Counts what the experts of the step computed; after its logits were used.
  void count_pairs();

 private:
  /// Rows that go through the layers together, and their memory.
  struct MicroBatch {
    explicit MicroBatch(Device& device) : scratch(device), streams{Scratch(device), Scratch(device)} {}

    Resident at;
    std::int64_t tokens = 0;         ///< of the domain, wherever they are
    Scratch scratch;                 ///< of one layer
    std::array<Scratch, 2> streams;  ///< the residual stream before and after a layer
    int stream = 0;                  ///< which of them holds it
  };
  /// A micro-batch whose partial sums have not been sent yet.
  struct Waiting {
    int micro_batch = -1;
    const MoeLayer* layer = nullptr;
    InFlight flight;
  };

  /// A step on several ranks, or watched.
  [[nodiscard]] Logits forward_among(const Batch& batch, std::int64_t step, const RoutingObserver& observe);
  /// On the only rank.
  [[nodiscard]] Logits forward_alone(const Batch& batch, std::int64_t step);
  [[nodiscard]] std::span<std::int32_t> own_pairs() const;
  /// Where the ranks stand that exchange something at a MoE layer.
  [[nodiscard]] Place place(const char* collective, const MoeLayer& layer, const InFlight& flight) const;
  void start(const Batch& batch, int micro_batch);
  /// Layers [first, last) without experts, in which rows stay where they are; returns the K and V rows.
  [[nodiscard]] Freight dense_layers(int first, int last, const Batch& batch, MicroBatch& rows);
  /// Adds attention to x; returns the K and V rows that it computed.
  [[nodiscard]] KvRows attention(int layer, const Batch& batch, MicroBatch& rows);
  void dense_mlp(int layer, MicroBatch& rows);
  /// Layers after the last one with experts; their K and V rows have an exchange of their own.
  void finish(const Batch& batch, std::int64_t step);
  /// Sends the partial sums of `waiting` in an exchange of their own, if any rank has some, and lands its rows.
  void settle(Waiting& waiting, bool always);
  void land(Waiting& waiting, Inbox& sums);
  [[nodiscard]] Logits head(const Batch& batch);

  const ModelSpec& spec_;
  const Weights& weights_;
  KvPool& kv_;
  RankContext& context_;
  std::vector<MicroBatch> micro_batches_;
  std::vector<MoeLayer> moe_;
  std::vector<OwnExperts> own_;        ///< (MoE layers), on the only rank
  std::uint64_t forward_stretch_ = 0;  ///< of the device's work: in which the forward pass ended
  DeviceMemory own_pairs_;             ///< shared: (micro-batches, MoE layers), those that they computed in a step
  std::vector<int> layer_of_moe_;
  std::vector<std::vector<int>> among_;  ///< (MoE layers): the ranks that exchange something there; empty: all
};

}  // namespace coterie
