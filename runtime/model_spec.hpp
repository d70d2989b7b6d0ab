// What a model is made of, as a value: shapes, options, and where each weight lies in the checkpoint. A model family
// turns config.json into one of these; nothing else in the runtime knows families.
#pragma once

#include "kernels/device.hpp"
#include "placement/safetensors.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace coterie {

/// Rows of a stored tensor, seen as a matrix of its last dimension's width.
struct WeightRef {
  std::string tensor;
  Shape stored;  ///< the shape it must have in the checkpoint
  std::int64_t first_row = 0;
  std::int64_t rows = 0;

  [[nodiscard]] std::int64_t cols() const { return stored.back(); }
};

/// A whole stored matrix or vector; a vector is one row.
[[nodiscard]] WeightRef whole(std::string tensor, Shape shape);

/// Matrices stacked row-wise into one.
using StackedRef = std::vector<WeightRef>;

struct ExpertRef {
  WeightRef gate, up;  ///< (intermediate, hidden)
  WeightRef down;      ///< (hidden, intermediate)
};

struct AttentionSpec {
  AttentionShape shape;
  float clip = 0;     ///< q, k and v are limited to [-clip, clip]; 0: not
  WeightRef norm;     ///< (hidden)
  StackedRef qkv;     ///< ((heads + 2 kv_heads) * head_dim, hidden)
  WeightRef out;      ///< (hidden, heads * head_dim)
  StackedRef q_norm;  ///< empty, or one vector: (heads * head_dim), or (head_dim) for each head alike
  StackedRef k_norm;  ///< empty, or one vector: (kv_heads * head_dim) or (head_dim)

  [[nodiscard]] std::int64_t q_width() const { return std::int64_t{shape.heads} * shape.head_dim; }
  [[nodiscard]] std::int64_t kv_width() const { return std::int64_t{shape.kv_heads} * shape.head_dim; }
};

struct MoeSpec {
  RouterOptions router;
  std::int64_t intermediate = 0;
  WeightRef norm;                  ///< (hidden)
  WeightRef router_weight;         ///< (experts, hidden)
  std::vector<ExpertRef> experts;  ///< (experts)
};

struct LayerSpec {
  AttentionSpec attention;
  MoeSpec moe;
};

struct ModelSpec {
  std::string family;
  std::int64_t hidden = 0;
  std::int64_t vocabulary = 0;
  std::int64_t max_positions = 0;
  float rms_epsilon = 0;
  Rotary rotary;
  std::vector<std::int32_t> end_tokens;  ///< any of them ends a sequence
  WeightRef embedding;                   ///< (vocabulary, hidden)
  WeightRef final_norm;                  ///< (hidden)
  WeightRef head;                        ///< (vocabulary, hidden); the embedding again when they are tied
  std::vector<LayerSpec> layers;

  [[nodiscard]] int experts() const { return static_cast<int>(layers.front().moe.experts.size()); }
  [[nodiscard]] int top_k() const { return layers.front().moe.router.top_k; }
  /// (layers): the ids by which traces and plans name the MoE layers.
  [[nodiscard]] std::vector<int> moe_layer_ids() const;
  /// K and V elements of one token over all layers.
  [[nodiscard]] std::int64_t kv_elements_per_token() const;
  /// Weights outside the experts; tied embeddings count once.
  [[nodiscard]] std::int64_t dense_parameters() const;
  [[nodiscard]] std::int64_t expert_parameters() const;  ///< of all experts of all layers
  [[nodiscard]] std::int64_t parameters() const { return dense_parameters() + expert_parameters(); }
  [[nodiscard]] std::int64_t active_parameters() const;  ///< that one token meets

  /// Calls visit(ref) for every weight that the model has, each once.
  template <class Visit>
  void for_each_weight(Visit visit) const;
};

template <class Visit>
void ModelSpec::for_each_weight(Visit visit) const {
  visit(embedding);
  visit(final_norm);
  if (head.tensor != embedding.tensor) visit(head);
  for (const LayerSpec& layer : layers) {
    const AttentionSpec& a = layer.attention;
    visit(a.norm);
    for (const WeightRef& w : a.qkv) visit(w);
    visit(a.out);
    for (const WeightRef& w : a.q_norm) visit(w);
    for (const WeightRef& w : a.k_norm) visit(w);
    visit(layer.moe.norm);
    visit(layer.moe.router_weight);
    for (const ExpertRef& e : layer.moe.experts) {
      visit(e.gate);
      visit(e.up);
      visit(e.down);
    }
  }
}

}  // namespace coterie
