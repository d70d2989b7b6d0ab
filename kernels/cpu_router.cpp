// The CPU's router.
#include "kernels/cpu_device.hpp"
#include "kernels/cpu_simd.hpp"

#include <algorithm>

namespace coterie {
namespace {

/// In place; the sum is taken in order.
COTERIE_SIMD void softmax(float* row, std::int64_t count) {
  float largest = row[0];
  for (std::int64_t e = 1; e < count; ++e) largest = row[e] > largest ? row[e] : largest;
  for (std::int64_t e = 0; e < count; ++e) row[e] = fast_exp(row[e] - largest);
  float sum = 0;
  for (std::int64_t e = 0; e < count; ++e) sum += row[e];
  for (std::int64_t e = 0; e < count; ++e) row[e] /= sum;
}

/// The `k` largest, falling; among equals the lower index first.
void choose(const float* weights, std::int64_t count, int k, std::int32_t* chosen, float* chosen_weights) {
  int held = 0;
  for (std::int64_t e = 0; e < count; ++e) {
    if (held == k && !(weights[e] > chosen_weights[k - 1])) continue;
    int place = held < k ? held++ : k - 1;
    for (; place > 0 && weights[e] > chosen_weights[place - 1]; --place) {
      chosen[place] = chosen[place - 1];
      chosen_weights[place] = chosen_weights[place - 1];
    }
    chosen[place] = static_cast<std::int32_t>(e);
    chosen_weights[place] = weights[e];
  }
}

}  // namespace

Routing CpuDevice::route(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options) {
  const std::int64_t experts = weight.out_features();
  require(options.top_k >= 1 && options.top_k <= experts, "route: top_k is not in 1 to the number of experts");
  const Tensor logits{reinterpret_cast<std::byte*>(logits_.get<float>(in.rows * experts)), DType::f32, in.rows, experts,
                      experts};
  linear(in, weight, logits, false);
  Routing routing;
  const auto total = static_cast<std::size_t>(in.rows * options.top_k);
  routing.top_k = options.top_k;
  routing.experts.resize(total);
  routing.weights.resize(total);
  parallel_for(threads_for(in.rows * experts * 20), in.rows, [&](std::int64_t t) {
    softmax(f32_row(logits, t), experts);
    float* weights = routing.weights.data() + t * options.top_k;
    choose(f32_row(logits, t), experts, options.top_k, routing.experts.data() + t * options.top_k, weights);
    if (!options.normalise) return;
    float sum = 0;
    for (int i = 0; i < options.top_k; ++i) sum += weights[i];
    for (int i = 0; i < options.top_k; ++i) weights[i] /= sum;
  });
  return routing;
}

}  // namespace coterie
