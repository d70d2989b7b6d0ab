// A GPU's router: a warp a token, which has the token's logits, and what experts are chosen by, in shared memory.
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/require.hpp"

#include <array>
#include <cstring>
#include <limits>

namespace coterie {
namespace {

constexpr unsigned route_threads = 128;
constexpr unsigned warps = route_threads / 32;

/// A token's numbers as its warp works on them.
struct Token {
  float* scores;          ///< (outputs)
  float* choice;          ///< (outputs): what experts are chosen by
  std::int32_t* experts;  ///< (top_k)
  float* values;          ///< (top_k)
};

struct RouteCall {
  const float* logits;  ///< (rows, outputs)
  std::int64_t rows;
  int outputs;
  RouterOptions options;
  const float* logits_bias;  ///< or none
  const float* choice_bias;
  std::int32_t* experts;  ///< (rows, top_k)
  float* weights;         ///< (rows, top_k)
};

__device__ float never() {
  return -INFINITY;
}

/// softmax of `count` numbers in place.
__device__ void softmax(float* values, int count, unsigned lane) {
  float largest = never();
  for (int i = static_cast<int>(lane); i < count; i += 32) largest = fmaxf(largest, values[i]);
  largest = warp_max(largest);
  float sum = 0;
  for (int i = static_cast<int>(lane); i < count; i += 32) {
    values[i] = expf(values[i] - largest);
    sum += values[i];
  }
  sum = warp_sum(sum);
  for (int i = static_cast<int>(lane); i < count; i += 32) values[i] /= sum;
  __syncwarp();
}

/// The index of the largest of `count` values, among equals the lowest.
__device__ int best_of(const float* values, int count, unsigned lane) {
  int best = count;
  float most = never();
  for (int i = static_cast<int>(lane); i < count; i += 32) {
    if (best == count || values[i] > most) {
      best = i;
      most = values[i];
    }
  }
  for (unsigned half = 16; half > 0; half /= 2) {
    const float other = __shfl_xor_sync(0xffffffffU, most, half);
    const int its = __shfl_xor_sync(0xffffffffU, best, half);
    if (its < count && (best == count || other > most || (other == most && its < best))) {
      most = other;
      best = its;
    }
  }
  return best;
}

/// Takes the best of `choice` as the i-th.
__device__ void take(const Token& token, int i, int outputs, unsigned lane) {
  const int best = best_of(token.choice, outputs, lane);
  __syncwarp();
  if (lane == 0) {
    token.experts[i] = best;
    token.values[i] = token.scores[best];
    token.choice[best] = never();
  }
  __syncwarp();
}

__device__ float group_score(const float* group, int size, GroupScore score) {
  float first = never();
  float second = never();
  for (int e = 0; e < size; ++e) {
    second = fmaxf(second, fminf(first, group[e]));
    first = fmaxf(first, group[e]);
  }
  return score == GroupScore::largest ? first : first + second;
}

/// Leaves out the experts of all groups but the best: those that fewer than top_groups come before.
__device__ void keep_best_groups(const RouteCall& call, float* choice, unsigned lane) {
  const RouterOptions& options = call.options;
  const int size = call.outputs / options.groups;
  unsigned left_out = 0;  // a bit for each group of this lane: all are scored before any is changed
  for (int g = static_cast<int>(lane), bit = 0; g < options.groups; g += 32, ++bit) {
    const float mine = group_score(choice + g * size, size, options.group_score);
    int before = 0;
    for (int other = 0; other < options.groups; ++other) {
      const float its = group_score(choice + other * size, size, options.group_score);
      if (its > mine || (its == mine && other < g)) ++before;
    }
    if (before >= options.top_groups) left_out |= 1U << bit;
  }
  __syncwarp();
  for (int g = static_cast<int>(lane), bit = 0; g < options.groups; g += 32, ++bit) {
    if ((left_out >> bit & 1U) == 0) continue;
    for (int e = 0; e < size; ++e) choice[g * size + e] = never();
  }
  __syncwarp();
}

/// SparseMixer-v2 at inference (Liu et al., arXiv 2409.12136).
__device__ void mix_sparsely(const RouteCall& call, const Token& token, unsigned lane) {
  for (int i = 0; i < call.options.top_k; ++i) {
    const int best = best_of(token.choice, call.outputs, lane);
    const float largest = token.choice[best];
    float sum = 0;
    for (int e = static_cast<int>(lane); e < call.outputs; e += 32) {
      const float logit = token.scores[e];
      const bool far = (largest - logit) / fmaxf(fabsf(logit), largest) > 2 * call.options.jitter;
      if (token.choice[e] > never() && !far) sum += expf(logit - largest);
    }
    sum = warp_sum(sum);
    __syncwarp();
    if (lane == 0) {
      token.experts[i] = best;
      token.values[i] = 1 / sum;
      token.choice[best] = never();
    }
    __syncwarp();
  }
}

__device__ bool goes_first(const Token& token, int a, int b) {
  const std::int32_t x = token.experts[a];
  const std::int32_t y = token.experts[b];
  if (x < 0 || y < 0) return y < 0 && x >= 0;
  return token.values[a] > token.values[b] || (token.values[a] == token.values[b] && x < y);
}

/// By one lane: empties places by top_p and of null experts, normalises, scales, sorts by falling weight.
__device__ void finish(const RouterOptions& options, int outputs, const Token& token) {
  float seen = 0;
  float sum = 0;
  for (int i = 0; i < options.top_k; ++i) {
    if (options.top_p < 1 && seen >= options.top_p) token.experts[i] = -1;
    seen += token.values[i];
    if (token.experts[i] >= outputs - options.null_experts) token.experts[i] = -1;
    if (token.experts[i] < 0) token.values[i] = 0;
    sum += token.values[i];
  }
  sum = fmaxf(sum + options.added_to_sum, options.least_sum);
  for (int i = 0; i < options.top_k; ++i) {
    if (token.experts[i] >= 0 && options.normalise) token.values[i] /= sum;
    if (token.experts[i] >= 0) token.values[i] *= options.scale;
    for (int place = i; place > 0 && goes_first(token, place, place - 1); --place) {
      const std::int32_t expert = token.experts[place];
      token.experts[place] = token.experts[place - 1];
      token.experts[place - 1] = expert;
      const float value = token.values[place];
      token.values[place] = token.values[place - 1];
      token.values[place - 1] = value;
    }
  }
}

__global__ void route_rows(RouteCall call) {
  const RouterOptions& options = call.options;
  const unsigned lane = threadIdx.x % 32;
  const std::int64_t row = std::int64_t{blockIdx.x} * warps + threadIdx.x / 32;
  if (row >= call.rows) return;  // the whole warp
  const int width = 2 * call.outputs + 2 * options.top_k;
  float* mine = dynamic_shared_floats() + threadIdx.x / 32 * width;
  const Token token{mine, mine + call.outputs, reinterpret_cast<std::int32_t*>(mine + 2 * call.outputs),
                    mine + 2 * call.outputs + options.top_k};
  for (int e = static_cast<int>(lane); e < call.outputs; e += 32) {
    float logit = call.logits[row * call.outputs + e];
    if (call.logits_bias != nullptr) logit += call.logits_bias[e];
    token.scores[e] = options.scoring == Scoring::sigmoid ? 1 / (1 + expf(-logit)) : logit;
  }
  __syncwarp();
  if (options.scoring == Scoring::softmax) softmax(token.scores, call.outputs, lane);
  for (int e = static_cast<int>(lane); e < call.outputs; e += 32) {
    token.choice[e] = call.choice_bias == nullptr ? token.scores[e] : token.scores[e] + call.choice_bias[e];
  }
  __syncwarp();
  if (options.top_groups < options.groups) keep_best_groups(call, token.choice, lane);
  if (options.scoring == Scoring::sparse_mixer) {
    mix_sparsely(call, token, lane);
  } else {
    for (int i = 0; i < options.top_k; ++i) take(token, i, call.outputs, lane);
  }
  if (options.scoring == Scoring::softmax_of_chosen) softmax(token.values, options.top_k, lane);
  if (lane == 0) finish(options, call.outputs, token);
  __syncwarp();
  for (int i = static_cast<int>(lane); i < options.top_k; i += 32) {
    call.experts[row * options.top_k + i] = token.experts[i];
    call.weights[row * options.top_k + i] = token.values[i];
  }
}

}  // namespace

Routing CudaDevice::route(const Tensor& in, const PackedMatrix& packed, const RouterOptions& options,
                          const RouterBiases& biases) {
  const CudaMatrix& weight = as_cuda_matrix(packed);
  const std::int64_t outputs = weight.out_features();
  require_shape(in, options_.activations, in.rows, weight.in_features(), "route: the input");
  require_router(options, biases, outputs);
  require(options.groups <= 1024, "route: more than 1024 groups");
  Routing routing;
  routing.top_k = options.top_k;
  const std::int64_t total = in.rows * options.top_k;
  routing.experts.resize(static_cast<std::size_t>(total));
  routing.weights.resize(static_cast<std::size_t>(total));
  if (total == 0) return routing;
  float* logits = hidden_.get<float>(in.rows * outputs);
  multiply(
      std::array{Product{in, &weight, {reinterpret_cast<std::byte*>(logits), DType::f32, in.rows, outputs, outputs}}},
      false);
  auto* experts = rows_.get<std::int32_t>(2 * total);
  auto* weights = reinterpret_cast<float*>(experts + total);
  const RouteCall call{logits,
                       in.rows,
                       static_cast<int>(outputs),
                       options,
                       as_matrix<const float>(biases.logits).data,
                       as_matrix<const float>(biases.choice).data,
                       experts,
                       weights};
  const std::size_t shared = warps * static_cast<std::size_t>(2 * outputs + 2 * options.top_k) * sizeof(float);
  require(shared <= std::size_t{48} << 10, "route: more experts than this device's shared memory holds");
  launch(route_rows, static_cast<unsigned>((in.rows + warps - 1) / warps), route_threads, shared, stream_, call);
  const std::size_t half = routing.experts.size() * sizeof(std::int32_t);
  const std::byte* came = fetch({experts, 2 * half, 2 * half, 1});
  std::memcpy(routing.experts.data(), came, half);
  std::memcpy(routing.weights.data(), came + half, half);
  return routing;
}

}  // namespace coterie
