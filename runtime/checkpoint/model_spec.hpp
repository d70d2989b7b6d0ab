// What a model is made of, as a value: shapes, options, and where each weight lies in the checkpoint. A model family
// turns config.json into one of these; nothing else in the runtime knows families.
#pragma once

#include "kernels/device.hpp"
#include "runtime/checkpoint/rotary.hpp"
#include "runtime/checkpoint/weight_ref.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

struct NormSpec {
  WeightRef weight;      ///< (1, width)
  StackedRef bias;       ///< empty, or (1, width)
  float epsilon = 0;     ///< added to the mean of the squares
  bool centred = false;  ///< LayerNorm: the mean is taken off first; otherwise RMSNorm
};

/// A gated MLP: an expert, a shared expert, or that of a dense layer. Biases: empty, or columns.
struct ExpertRef {
  WeightRef gate, up;                 ///< (intermediate, hidden)
  WeightRef down;                     ///< (hidden, intermediate)
  StackedRef gate_bias{}, up_bias{};  ///< (intermediate, 1)
  StackedRef down_bias{};             ///< (hidden, 1)
  Gating gating{};
};

/// Latent attention: the cache keeps one row of a position for all heads, the latent columns and a rotated key.
struct LatentSpec {
  std::int64_t latent = 0;         ///< columns from which a head's key and value are computed
  std::int64_t rope = 0;           ///< columns of a head that are rotated, and of the key that all share
  std::int64_t nope = 0;           ///< columns of a head that are not
  std::int64_t value = 0;          ///< columns of a head's output
  StackedRef q_down;               ///< empty, or (q rank, hidden): queries go through fewer columns
  StackedRef q_down_bias;          ///< empty, or (q rank, 1)
  std::optional<NormSpec> q_norm;  ///< of those columns
  StackedRef q;                    ///< (heads * (nope + rope), hidden or q rank): nope of all heads, then rope
  WeightRef kv;                    ///< (latent + rope, hidden)
  StackedRef kv_bias;              ///< empty, or (latent + rope, 1)
  NormSpec kv_norm;                ///< (latent)
  std::vector<WeightRef> keys;     ///< (heads) of (latent, nope): what takes a query to the latent columns
  std::vector<WeightRef> values;   ///< (heads) of (value, latent)

  [[nodiscard]] std::int64_t width() const { return latent + rope; }
};

struct AttentionSpec {
  AttentionShape shape;  ///< of latent attention: heads and scale
  RotarySpec rotary;
  float clip = 0;                    ///< q, k and v are limited to [-clip, clip]; 0: not
  NormSpec norm;                     ///< of the layer's input, (hidden)
  std::optional<LatentSpec> latent;  ///< instead of qkv
  StackedRef qkv;                    ///< ((heads + 2 kv_heads) * head_dim, hidden)
  StackedRef qkv_bias;               ///< empty, or ((heads + 2 kv_heads) * head_dim, 1)
  WeightRef out;                     ///< (hidden, heads * head_dim), of latent attention (hidden, heads * value)
  StackedRef out_bias;               ///< empty, or (hidden, 1)
  StackedRef sinks;                  ///< empty, or (heads, 1): see Device::attention
  std::optional<NormSpec> q_norm;    ///< over (heads * head_dim), or (head_dim) for each head alike
  std::optional<NormSpec> k_norm;    ///< over (kv_heads * head_dim) or (head_dim)

  [[nodiscard]] std::int64_t q_width() const { return std::int64_t{shape.heads} * shape.head_dim; }
  [[nodiscard]] std::int64_t kv_width() const { return std::int64_t{shape.kv_heads} * shape.head_dim; }
  /// Numbers of a token's rows in the cache.
  [[nodiscard]] std::int64_t cached_k() const { return latent ? latent->width() : kv_width(); }
  [[nodiscard]] std::int64_t cached_v() const { return latent ? 0 : kv_width(); }
};

/// An expert that every token meets.
struct SharedExpertSpec {
  ExpertRef mlp;
  StackedRef gate;  ///< empty, or (1, hidden): the token's output counts sigmoid(gate x)
};

struct MoeSpec {
  RouterOptions router;
  WeightRef router_weight;         ///< (experts + null experts, hidden)
  StackedRef router_bias;          ///< empty, or (experts, 1): added to the logits
  StackedRef router_correction;    ///< empty, or (experts, 1): added to the scores for the choice alone
  std::vector<ExpertRef> experts;  ///< (experts)
  std::optional<int> experts_of;   ///< the layer whose experts these are, where it isn't this one
  std::optional<SharedExpertSpec> shared;
};

struct LayerSpec {
  AttentionSpec attention;
  NormSpec mlp_norm;           ///< of what MLP or experts see, (hidden)
  std::optional<MoeSpec> moe;  ///< empty: a dense layer
  ExpertRef dense;             ///< the MLP of a dense layer
};

struct ModelSpec {
  std::string family;
  std::int64_t hidden = 0;
  std::int64_t vocabulary = 0;
  std::int64_t max_positions = 0;
  float norm_epsilon = 0;                ///< of the model's norms where nothing else is said
  float embedding_scale = 1;             ///< on the embedded tokens
  float residual_scale = 1;              ///< on what attention and MLP add to the stream
  float logits_scale = 1;                ///< on the logits
  std::vector<std::int32_t> end_tokens;  ///< any of them ends a sequence
  WeightRef embedding;                   ///< (vocabulary, hidden)
  NormSpec final_norm;                   ///< (hidden)
  WeightRef head;                        ///< (vocabulary, hidden); the embedding again when they are tied
  StackedRef head_bias;                  ///< empty, or (vocabulary, 1)
  std::vector<LayerSpec> layers;

  /// (MoE layers): the layers with experts, by which traces and plans name them; what counts MoE layers counts these.
  [[nodiscard]] std::vector<int> moe_layer_ids() const;
  [[nodiscard]] int moe_layers() const { return static_cast<int>(moe_layer_ids().size()); }
  /// Most experts of a layer, and most experts of a token.
  [[nodiscard]] int experts() const;
  [[nodiscard]] int top_k() const;
  /// Elements that the cache keeps of one token, over all layers.
  [[nodiscard]] std::int64_t kv_elements_per_token() const;
  /// Weights outside the experts; tied embeddings count once, shared experts count here.
  [[nodiscard]] std::int64_t dense_parameters() const;
  [[nodiscard]] std::int64_t expert_parameters() const;  ///< of all experts of all layers
  /// Of the experts that the fullest of so many ranks holds when they are dealt evenly.
  [[nodiscard]] std::int64_t expert_parameters(int ranks) const;
  [[nodiscard]] std::int64_t parameters() const { return dense_parameters() + expert_parameters(); }
  [[nodiscard]] std::int64_t active_parameters() const;  ///< that one token meets

  /// Calls visit(ref) for every weight that the model has, each once.
  void for_each_weight(const std::function<void(const WeightRef&)>& visit) const;
};

/// A norm over `width` columns without a bias, of the model's epsilon.
[[nodiscard]] NormSpec rms_norm(std::string tensor, std::int64_t width, float epsilon);

}  // namespace coterie
