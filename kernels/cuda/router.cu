// A GPU's router: a warp a token, which has the token's logits, and what experts are chosen by, in shared memory. Rows
// are then grouped by expert in two launches: blocks count what their rows chose, and with all blocks' counts each
// knows where its rows go; no order depends on chance.
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/require.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

namespace coterie {
namespace {

constexpr unsigned place_threads = 256;
constexpr int most_tiles = 128;  ///< blocks whose counts each block adds up
constexpr int least_tile = 4;    ///< rows of a block
constexpr int most_warps = 16;
constexpr std::size_t most_shared = std::size_t{48} << 10;

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
  int tile;               ///< rows of a block
  int count;              ///< of experts that are counted
  std::int32_t* counts;   ///< (blocks, count): how often each block's rows chose each; or none
  bool operator==(const RouteCall&) const = default;
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

/// By a warp.
__device__ void route_row(const RouteCall& call, const Token& token, std::int64_t row, unsigned lane) {
  const RouterOptions& options = call.options;
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
}

std::size_t warp_numbers(int outputs, int top_k) {
  return 2 * static_cast<std::size_t>(outputs) + 2 * static_cast<std::size_t>(top_k);
}

__global__ void route_rows(RouteCall call) {
  const int top_k = call.options.top_k;
  const unsigned lane = threadIdx.x % 32;
  const unsigned warps = blockDim.x / 32;
  const unsigned width = 2 * static_cast<unsigned>(call.outputs + top_k);
  float* mine = dynamic_shared_floats() + threadIdx.x / 32 * width;
  auto* counts = reinterpret_cast<std::int32_t*>(dynamic_shared_floats() + warps * width);
  const Token token{mine, mine + call.outputs, reinterpret_cast<std::int32_t*>(mine + 2 * call.outputs),
                    mine + 2 * call.outputs + top_k};
  if (call.counts != nullptr) {
    for (unsigned e = threadIdx.x; e < static_cast<unsigned>(call.count); e += blockDim.x) counts[e] = 0;
  }
  __syncthreads();
  const std::int64_t first = std::int64_t{blockIdx.x} * call.tile;
  const std::int64_t last = min(call.rows, first + call.tile);
  for (std::int64_t row = first + threadIdx.x / 32; row < last; row += warps) {
    route_row(call, token, row, lane);
    for (int i = static_cast<int>(lane); i < top_k; i += 32) {
      const std::int32_t expert = token.experts[i];
      call.experts[row * top_k + i] = expert;
      call.weights[row * top_k + i] = token.values[i];
      if (call.counts != nullptr && expert >= 0) atomicAdd(counts + expert, 1);
    }
    __syncwarp();
  }
  if (call.counts == nullptr) return;
  __syncthreads();
  for (unsigned e = threadIdx.x; e < static_cast<unsigned>(call.count); e += blockDim.x) {
    call.counts[std::int64_t{blockIdx.x} * call.count + e] = counts[e];
  }
}

struct PlaceCall {
  const std::int32_t* experts;  ///< (rows, top_k)
  const std::int32_t* counts;   ///< (blocks, count), as route_rows counted
  std::int64_t rows;
  int top_k;
  int tile;
  int count;
  std::int32_t* first;  ///< these as in RowGroups
  std::int32_t* row;
  std::int32_t* place;
  bool operator==(const PlaceCall&) const = default;
};

/// Block b: where the choices of its rows go.
__global__ void __launch_bounds__(place_threads) place_rows(PlaceCall call) {
  auto* next = reinterpret_cast<std::int32_t*>(dynamic_shared_floats());  // (count): where an expert's next row goes
  int begin = 0;
  for (int some = 0; some < call.count; some += static_cast<int>(place_threads)) {
    const int e = some + static_cast<int>(threadIdx.x);
    int before = 0;
    int all = 0;
#pragma unroll 16  // loads under way
    for (unsigned block = 0; e < call.count && block < gridDim.x; ++block) {
      const int chosen = call.counts[std::int64_t{block} * call.count + e];
      before += block < blockIdx.x ? chosen : 0;
      all += chosen;
    }
    int of_some = 0;
    const int mine = begin + block_sum_before<place_threads>(all, of_some);
    begin += of_some;
    if (e >= call.count) continue;
    next[e] = mine + before;
    if (blockIdx.x == 0) call.first[e] = mine;
  }
  if (blockIdx.x == 0 && threadIdx.x == 0) call.first[call.count] = begin;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  // A warp takes 32 choices at a time: those of one expert find one another, and go on in their order.
  const unsigned lane = threadIdx.x;
  const std::int64_t last = min(call.rows, (std::int64_t{blockIdx.x} + 1) * call.tile) * call.top_k;
  const std::int64_t first = std::int64_t{blockIdx.x} * call.tile * call.top_k + lane;
  const auto chosen = [&](std::int64_t i) { return i < last ? call.experts[i] : -1; };
  std::int32_t coming = chosen(first);  // read while those before are placed
  for (std::int64_t i = first; i - lane < last; i += 32) {
    const std::int32_t expert = coming;
    coming = chosen(i + 32);
    const unsigned same = __match_any_sync(0xffffffffU, expert);
    const int before = __popc(same & ((1U << lane) - 1));
    const std::int32_t at = expert < 0 ? -1 : next[expert] + before;
    if (i < last) call.place[i] = at;
    if (at >= 0) call.row[at] = static_cast<std::int32_t>(i / call.top_k);
    __syncwarp();
    if (at >= 0 && before == 0) next[expert] += __popc(same);
    __syncwarp();
  }
}

}  // namespace

/// What was chosen for each row, and how often by each tile of them.
struct CudaDevice::Chosen {
  std::int32_t* experts;
  float* weights;
  std::int32_t* counts;  ///< or none
};

int CudaDevice::router_tile(std::int64_t rows) {
  return static_cast<int>(std::max<std::int64_t>(least_tile, (rows + most_tiles - 1) / most_tiles));
}

void CudaDevice::choose(const Tensor& in, const PackedMatrix& packed, const RouterOptions& options,
                        const RouterBiases& biases, const Chosen& to) {
  const CudaMatrix& weight = as_cuda_matrix(packed);
  const std::int64_t outputs = weight.out_features();
  float* logits = hidden_.get<float>(in.rows * outputs);
  multiply(
      std::array{Product{in, &weight, {reinterpret_cast<std::byte*>(logits), DType::f32, in.rows, outputs, outputs}}},
      false);
  const int tile = router_tile(in.rows);
  const RouteCall call{logits,
                       in.rows,
                       static_cast<int>(outputs),
                       options,
                       as_matrix<const float>(biases.logits).data,
                       as_matrix<const float>(biases.choice).data,
                       to.experts,
                       to.weights,
                       tile,
                       static_cast<int>(outputs) - options.null_experts,
                       to.counts};
  const std::size_t warp_bytes = warp_numbers(call.outputs, options.top_k) * sizeof(float);
  const std::size_t count_bytes = static_cast<std::size_t>(call.count) * sizeof(std::int32_t);
  require(warp_bytes + count_bytes <= most_shared, "route: more experts than this device's shared memory holds");
  const std::size_t warps =
      std::min<std::size_t>({most_warps, static_cast<std::size_t>(tile), (most_shared - count_bytes) / warp_bytes});
  launch(route_rows, static_cast<unsigned>((in.rows + tile - 1) / tile), static_cast<unsigned>(warps * 32),
         warps * warp_bytes + count_bytes, stream_, call);
}

void CudaDevice::require_route(const Tensor& in, const PackedMatrix& packed, const RouterOptions& options,
                               const RouterBiases& biases) const {
  const CudaMatrix& weight = as_cuda_matrix(packed);
  require_shape(in, options_.activations, in.rows, weight.in_features(), "route: the input");
  require_router(options, biases, weight.out_features());
  require(options.groups <= 1024, "route: more than 1024 groups");
}

RowGroups CudaDevice::group(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options,
                            const RouterBiases& biases) {
  require_route(in, weight, options, biases);
  const auto count = static_cast<int>(weight.out_features()) - options.null_experts;
  const std::int64_t choices = in.rows * options.top_k;
  const int tile = router_tile(in.rows);
  const std::int64_t tiles = std::max<std::int64_t>(1, (in.rows + tile - 1) / tile);
  auto* first = groups_.get<std::int32_t>(count + 1 + 4 * choices + tiles * count);
  std::int32_t* row = first + count + 1;
  std::int32_t* place = row + choices;
  std::int32_t* experts = place + choices;
  auto* weights = reinterpret_cast<float*>(experts + choices);
  std::int32_t* counts = experts + 2 * choices;
  if (in.rows == 0) {
    const std::vector<std::int32_t> none(static_cast<std::size_t>(count) + 1);
    send(none.data(), none.size() * sizeof(std::int32_t), first);
  } else {
    choose(in, weight, options, biases, {experts, weights, counts});
    launch(place_rows, static_cast<unsigned>(tiles), place_threads,
           static_cast<std::size_t>(count) * sizeof(std::int32_t), stream_,
           PlaceCall{experts, counts, in.rows, options.top_k, tile, count, first, row, place});
  }
  return {in.rows, options.top_k, count, first, row, place, weights};
}

Routing CudaDevice::route(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options,
                          const RouterBiases& biases) {
  require_route(in, weight, options, biases);
  Routing routing;
  routing.top_k = options.top_k;
  const std::int64_t total = in.rows * options.top_k;
  routing.experts.resize(static_cast<std::size_t>(total));
  routing.weights.resize(static_cast<std::size_t>(total));
  if (total == 0) return routing;
  auto* experts = rows_.get<std::int32_t>(2 * total);
  choose(in, weight, options, biases, {experts, reinterpret_cast<float*>(experts + total), nullptr});
  const std::size_t half = routing.experts.size() * sizeof(std::int32_t);
  const std::byte* came = fetch({experts, 2 * half, 2 * half, 1});
  std::memcpy(routing.experts.data(), came, half);
  std::memcpy(routing.weights.data(), came + half, half);
  return routing;
}

}  // namespace coterie
