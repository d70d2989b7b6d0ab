#include "runtime/weights.hpp"

#include <algorithm>

namespace coterie {
namespace {

/// Copies a matrix or vector as it is, some rows at a time.
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

LayerWeights load_layer(const LayerSpec& spec, const Checkpoint& checkpoint, const std::vector<int>& held,
                        Device& device) {
  const auto array = [&](const StackedRef& refs) {
    return refs.empty() ? DeviceArray{} : load_array(checkpoint.source(refs), device, device.activation_type());
  };
  const auto pack = [&](const StackedRef& refs) { return device.pack(checkpoint.source(refs)); };

  LayerWeights layer;
  layer.attention_norm = array({spec.attention.norm});
  layer.qkv = pack(spec.attention.qkv);
  layer.attention_out = pack({spec.attention.out});
  layer.q_norm = array(spec.attention.q_norm);
  layer.k_norm = array(spec.attention.k_norm);
  layer.moe_norm = array({spec.moe.norm});
  layer.router = pack({spec.moe.router_weight});
  layer.experts.resize(spec.moe.experts.size());
  for (const int e : held) {
    const ExpertRef& expert = spec.moe.experts[e];
    layer.experts[e].gate_up = pack({expert.gate, expert.up});
    layer.experts[e].down = pack({expert.down});
  }
  return layer;
}

}  // namespace

Weights load_weights(const ModelSpec& spec, const Checkpoint& checkpoint, const Ownership& ownership, Device& device,
                     DType type) {
  spec.for_each_weight([&](const WeightRef& ref) { checkpoint.check(ref); });
  Weights weights;
  weights.embedding = load_array(checkpoint.source(spec.embedding), device, type);
  weights.final_norm = load_array(checkpoint.source(spec.final_norm), device, device.activation_type());
  weights.head = device.pack(checkpoint.source(spec.head));
  for (std::size_t l = 0; l < spec.layers.size(); ++l) {
    weights.layers.push_back(load_layer(spec.layers[l], checkpoint, ownership.held(static_cast<int>(l)), device));
  }
  return weights;
}

}  // namespace coterie
