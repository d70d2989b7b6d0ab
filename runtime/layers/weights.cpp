#include "runtime/layers/weights.hpp"

#include "runtime/checkpoint/check_weights.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace coterie {
namespace {

/// Copies a matrix as it is, some rows at a time.
DeviceArray load_array(const WeightSource& source, Device& device, DType type) {
  constexpr std::int64_t kPanelElements = 1 << 20;
  DeviceArray out;
  out.memory = device.allocate(static_cast<std::size_t>(source.rows * source.cols) * size_of(type));
  out.view = {out.memory.get(), type, source.rows, source.cols, source.cols};
  const std::int64_t panel = std::clamp<std::int64_t>(kPanelElements / source.cols, 1, source.rows);
  std::vector<float> rows(static_cast<std::size_t>(panel * source.cols));
  for (std::int64_t first = 0; first < source.rows; first += panel) {
    const std::int64_t count = std::min(panel, source.rows - first);
    source.read(first, count, rows.data());
    device.upload(std::span(rows).first(static_cast<std::size_t>(count * source.cols)),
                  out.view.row_range(first, count));
  }
  return out;
}

/// Loads weights of one checkpoint onto one device.
struct Loader {
  const Checkpoint& checkpoint;
  Device& device;
  /// By layer and number, as several layers may use the same.
  std::map<std::pair<int, int>, std::shared_ptr<const ExpertWeights>> experts{};

  [[nodiscard]] std::unique_ptr<PackedMatrix> matrix(const StackedRef& refs, WeightUse use = WeightUse::linear) const {
    WeightSource source = checkpoint.source(refs);
    source.use = use;
    return device.pack(source);
  }
  /// A vector (1, width), stored as a row or as columns one below the other; empty for no references.
  [[nodiscard]] DeviceArray vector(const StackedRef& refs) const { return vector(refs, device.activation_type()); }
  [[nodiscard]] DeviceArray vector(const StackedRef& refs, DType type) const {
    if (refs.empty()) return {};
    DeviceArray out = load_array(checkpoint.source(refs), device, type);
    out.view.cols = out.view.stride = out.view.rows * out.view.cols;
    out.view.rows = 1;
    return out;
  }
  [[nodiscard]] Norm norm(const NormSpec& spec) const {
    return {vector({spec.weight}), vector(spec.bias), spec.epsilon, spec.centred};
  }
  [[nodiscard]] Norm norm(const std::optional<NormSpec>& spec) const { return spec ? norm(*spec) : Norm{}; }

  [[nodiscard]] ExpertWeights mlp(const ExpertRef& ref) const {
    StackedRef gate_up_bias = ref.gate_bias;
    gate_up_bias.insert(gate_up_bias.end(), ref.up_bias.begin(), ref.up_bias.end());
    return {matrix({ref.gate, ref.up}, WeightUse::expert_gate_up), matrix({ref.down}, WeightUse::expert_down),
            vector(gate_up_bias), vector(ref.down_bias), ref.gating};
  }
  [[nodiscard]] LatentWeights latent(const LatentSpec& spec) const {
    LatentWeights out;
    if (!spec.q_down.empty()) out.q_down = matrix(spec.q_down);
    out.q_down_bias = vector(spec.q_down_bias);
    out.q_norm = norm(spec.q_norm);
    out.q = matrix(spec.q);
    out.kv = matrix({spec.kv});
    out.kv_bias = vector(spec.kv_bias);
    out.kv_norm = norm(spec.kv_norm);
    for (const WeightRef& head : spec.keys) out.keys.push_back(matrix({head}));
    for (const WeightRef& head : spec.values) out.values.push_back(matrix({head}));
    return out;
  }
  [[nodiscard]] AttentionWeights attention(const AttentionSpec& spec) const {
    AttentionWeights out;
    out.norm = norm(spec.norm);
    if (spec.latent) out.latent = latent(*spec.latent);
    if (!spec.latent) out.qkv = matrix(spec.qkv);
    out.qkv_bias = vector(spec.qkv_bias);
    out.out = matrix({spec.out});
    out.out_bias = vector(spec.out_bias);
    out.sinks = vector(spec.sinks);
    out.q_norm = norm(spec.q_norm);
    out.k_norm = norm(spec.k_norm);
    return out;
  }
  /// `layer` is the one whose experts these are.
  [[nodiscard]] MoeWeights moe(const MoeSpec& spec, int layer, const std::vector<int>& held) {
    MoeWeights out;
    out.router = matrix({spec.router_weight});
    out.router_bias = vector(spec.router_bias, DType::f32);
    out.router_correction = vector(spec.router_correction, DType::f32);
    out.experts.resize(spec.experts.size());
    for (const int e : held) {
      if (e >= static_cast<int>(spec.experts.size())) continue;  // a plan numbers the experts of the largest layer
      auto& expert = experts[{layer, e}];
      if (!expert) expert = std::make_shared<const ExpertWeights>(mlp(spec.experts[e]));
      out.experts[e] = expert;
    }
    if (!spec.shared) return out;
    out.shared = std::make_unique<ExpertWeights>(mlp(spec.shared->mlp));
    if (!spec.shared->gate.empty()) out.shared_gate = matrix(spec.shared->gate);
    return out;
  }
};

/// The type that a matrix is kept in.
DType kept_as(DType type, bool fits_bf16) {
  return fits_bf16 ? DType::bf16 : type;
}

}  // namespace

WeightBytes weight_bytes(const ModelSpec& spec, const Checkpoint* checkpoint, DType type) {
  const auto bytes = [&](const WeightRef& ref) {
    const bool vector = ref.rows == 1 || ref.cols == 1;  // kept as activations are
    const bool fits = checkpoint != nullptr && checkpoint->fits_bf16(ref);
    return ref.elements() * static_cast<std::int64_t>(size_of(vector ? DType::f32 : kept_as(type, fits)));
  };
  WeightBytes out;
  spec.for_each_weight([&](const WeightRef& ref) { out.dense += bytes(ref); });
  if (spec.head.tensor == spec.embedding.tensor) out.dense += bytes(spec.head);
  for (const LayerSpec& layer : spec.layers) {
    if (!layer.moe || layer.moe->experts_of) continue;
    for (const ExpertRef& expert : layer.moe->experts) {
      StackedRef refs{expert.gate, expert.up, expert.down};
      for (const StackedRef* biases : {&expert.gate_bias, &expert.up_bias, &expert.down_bias}) {
        refs.insert(refs.end(), biases->begin(), biases->end());
      }
      for (const WeightRef& ref : refs) out.experts += bytes(ref);
    }
  }
  out.dense -= out.experts;
  return out;
}

Weights load_weights(const ModelSpec& spec, const Checkpoint& checkpoint, const Ownership& ownership, Device& device,
                     DType type) {
  check_weights(spec, checkpoint);
  Loader load{checkpoint, device};
  Weights weights;
  const WeightSource embedding = checkpoint.source(spec.embedding);
  weights.embedding = load_array(embedding, device, kept_as(type, embedding.fits_bf16));
  weights.final_norm = load.norm(spec.final_norm);
  weights.head = load.matrix({spec.head});
  weights.head_bias = load.vector(spec.head_bias);
  int moe_layer = 0;
  for (int l = 0; l < static_cast<int>(spec.layers.size()); ++l) {
    const LayerSpec& from = spec.layers[l];
    LayerWeights& layer = weights.layers.emplace_back();
    layer.attention = load.attention(from.attention);
    layer.mlp_norm = load.norm(from.mlp_norm);
    if (from.moe) {
      layer.moe = load.moe(*from.moe, from.moe->experts_of.value_or(l), ownership.held(moe_layer++));
    } else {
      layer.dense = load.mlp(from.dense);
    }
  }
  return weights;
}

}  // namespace coterie
