#include "runtime/checkpoint/model_spec.hpp"

#include <algorithm>
#include <utility>

namespace coterie {
namespace {

std::int64_t elements_of(const StackedRef& refs) {
  std::int64_t n = 0;
  for (const WeightRef& ref : refs) n += ref.elements();
  return n;
}

std::int64_t parameters_of(const ExpertRef& e) {
  return e.gate.elements() + e.up.elements() + e.down.elements() + elements_of(e.gate_bias) + elements_of(e.up_bias) +
         elements_of(e.down_bias);
}

/// Visits what a layer's parts refer to.
struct Walk {
  const std::function<void(const WeightRef&)>& visit;

  void operator()(const WeightRef& ref) const { visit(ref); }
  void operator()(const StackedRef& refs) const { std::for_each(refs.begin(), refs.end(), visit); }
  void operator()(const NormSpec& norm) const {
    visit(norm.weight);
    (*this)(norm.bias);
  }
  void operator()(const ExpertRef& e) const {
    for (const WeightRef* ref : {&e.gate, &e.up, &e.down}) visit(*ref);
    for (const StackedRef* refs : {&e.gate_bias, &e.up_bias, &e.down_bias}) (*this)(*refs);
  }
  void operator()(const LatentSpec& a) const {
    for (const StackedRef* refs : {&a.q_down, &a.q_down_bias, &a.q, &a.kv_bias, &a.keys, &a.values}) (*this)(*refs);
    if (a.q_norm) (*this)(*a.q_norm);
    visit(a.kv);
    (*this)(a.kv_norm);
  }
  void operator()(const AttentionSpec& a) const {
    if (a.latent) (*this)(*a.latent);
    (*this)(a.norm);
    for (const StackedRef* refs : {&a.qkv, &a.qkv_bias, &a.out_bias, &a.sinks}) (*this)(*refs);
    visit(a.out);
    if (a.q_norm) (*this)(*a.q_norm);
    if (a.k_norm) (*this)(*a.k_norm);
  }
  void operator()(const MoeSpec& moe) const {
    visit(moe.router_weight);
    (*this)(moe.router_bias);
    (*this)(moe.router_correction);
    if (!moe.experts_of) std::for_each(moe.experts.begin(), moe.experts.end(), *this);
    if (!moe.shared) return;
    (*this)(moe.shared->mlp);
    (*this)(moe.shared->gate);
  }
};

}  // namespace

std::vector<int> ModelSpec::moe_layer_ids() const {
  std::vector<int> ids;
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (layers[l].moe) ids.push_back(static_cast<int>(l));
  }
  return ids;
}

int ModelSpec::experts() const {
  std::size_t most = 0;
  for (const LayerSpec& layer : layers) most = std::max(most, layer.moe ? layer.moe->experts.size() : 0);
  return static_cast<int>(most);
}

int ModelSpec::top_k() const {
  int most = 0;
  for (const LayerSpec& layer : layers) most = std::max(most, layer.moe ? layer.moe->router.top_k : 0);
  return most;
}

std::int64_t ModelSpec::kv_elements_per_token() const {
  std::int64_t elements = 0;
  for (const LayerSpec& layer : layers) elements += layer.attention.cached_k() + layer.attention.cached_v();
  return elements;
}

std::int64_t ModelSpec::expert_parameters() const {
  std::int64_t n = 0;
  for (const LayerSpec& layer : layers) {
    if (!layer.moe || layer.moe->experts_of) continue;
    for (const ExpertRef& e : layer.moe->experts) n += parameters_of(e);
  }
  return n;
}

std::int64_t ModelSpec::expert_parameters(int ranks) const {
  const int held = (experts() + ranks - 1) / ranks;
  std::int64_t n = 0;
  for (const LayerSpec& layer : layers) {
    if (!layer.moe || layer.moe->experts_of) continue;
    const std::vector<ExpertRef>& experts = layer.moe->experts;
    for (int e = 0; e < std::min(held, static_cast<int>(experts.size())); ++e) n += parameters_of(experts[e]);
  }
  return n;
}

std::int64_t ModelSpec::dense_parameters() const {
  std::int64_t n = 0;
  for_each_weight([&](const WeightRef& w) { n += w.elements(); });
  return n - expert_parameters();
}

std::int64_t ModelSpec::active_parameters() const {
  std::int64_t n = dense_parameters();
  for (const LayerSpec& layer : layers) {
    if (layer.moe) n += layer.moe->router.top_k * parameters_of(layer.moe->experts.front());
  }
  return n;
}

void ModelSpec::for_each_weight(const std::function<void(const WeightRef&)>& visit) const {
  const Walk walk{visit};
  walk(embedding);
  walk(final_norm);
  if (head.tensor != embedding.tensor) walk(head);
  walk(head_bias);
  for (const LayerSpec& layer : layers) {
    walk(layer.attention);
    walk(layer.mlp_norm);
    if (layer.moe) {
      walk(*layer.moe);
    } else {
      walk(layer.dense);
    }
  }
}

NormSpec rms_norm(std::string tensor, std::int64_t width, float epsilon) {
  return {whole(std::move(tensor), {width}), {}, epsilon, false};
}

}  // namespace coterie
