#include "runtime/model_spec.hpp"

#include <numeric>
#include <utility>

namespace coterie {
namespace {

std::int64_t parameters_of(const ExpertRef& e) {
  return e.gate.rows * e.gate.cols() + e.up.rows * e.up.cols() + e.down.rows * e.down.cols();
}

}  // namespace

WeightRef whole(std::string tensor, Shape shape) {
  std::int64_t rows = 1;
  for (std::size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return {std::move(tensor), std::move(shape), 0, rows};
}

std::vector<int> ModelSpec::moe_layer_ids() const {
  std::vector<int> ids(layers.size());
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

std::int64_t ModelSpec::kv_elements_per_token() const {
  std::int64_t elements = 0;
  for (const LayerSpec& layer : layers) elements += 2 * layer.attention.kv_width();
  return elements;
}

std::int64_t ModelSpec::expert_parameters() const {
  std::int64_t n = 0;
  for (const LayerSpec& layer : layers) {
    for (const ExpertRef& e : layer.moe.experts) n += parameters_of(e);
  }
  return n;
}

std::int64_t ModelSpec::dense_parameters() const {
  std::int64_t n = 0;
  for_each_weight([&](const WeightRef& w) { n += w.rows * w.cols(); });
  return n - expert_parameters();
}

std::int64_t ModelSpec::active_parameters() const {
  std::int64_t n = dense_parameters();
  for (const LayerSpec& layer : layers) n += layer.moe.router.top_k * parameters_of(layer.moe.experts.front());
  return n;
}

}  // namespace coterie
