// The CPU's router: row by row, and within a row every sum in its order.
#include "kernels/cpu_device.hpp"
#include "kernels/cpu_simd.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace coterie {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();  ///< a choice score that isn't chosen

/// In place; the sum is taken in order.
COTERIE_SIMD void softmax(float* row, std::int64_t count) {
  float largest = row[0];
  for (std::int64_t e = 1; e < count; ++e) largest = row[e] > largest ? row[e] : largest;
  for (std::int64_t e = 0; e < count; ++e) row[e] = fast_exp(row[e] - largest);
  float sum = 0;
  for (std::int64_t e = 0; e < count; ++e) sum += row[e];
  for (std::int64_t e = 0; e < count; ++e) row[e] /= sum;
}

COTERIE_SIMD void sigmoid(float* row, std::int64_t count) {
  for (std::int64_t e = 0; e < count; ++e) row[e] = 1 / (1 + fast_exp(-row[e]));
}

void add(float* row, const Tensor& bias, const float* to) {
  const float* b = f32_row(bias, 0);
  for (std::int64_t e = 0; e < bias.cols; ++e) row[e] = to[e] + b[e];
}

/// One token's choice as it is made.
struct Chosen {
  std::int32_t* experts;
  float* values;
};

/// The `k` largest values, falling; among equals the lower index first.
void choose(const float* values, std::int64_t count, int k, Chosen chosen) {
  int held = 0;
  for (std::int64_t e = 0; e < count; ++e) {
    if (held == k && !(values[e] > chosen.values[k - 1])) continue;
    int place = held < k ? held++ : k - 1;
    for (; place > 0 && values[e] > chosen.values[place - 1]; --place) {
      chosen.experts[place] = chosen.experts[place - 1];
      chosen.values[place] = chosen.values[place - 1];
    }
    chosen.experts[place] = static_cast<std::int32_t>(e);
    chosen.values[place] = values[e];
  }
}

/// Sum of the `count` largest of a group, which has as many.
float group_score(const float* group, std::int64_t size, GroupScore score) {
  float first = kNever;
  float second = kNever;
  for (std::int64_t e = 0; e < size; ++e) {
    second = std::max(second, std::min(first, group[e]));
    first = std::max(first, group[e]);
  }
  return score == GroupScore::largest ? first : first + second;
}

/// Leaves out the experts of all groups but the best.
void keep_best_groups(float* choice, std::int64_t experts, const RouterOptions& options) {
  const std::int64_t size = experts / options.groups;
  std::vector<float> scores(static_cast<std::size_t>(options.groups));
  for (int g = 0; g < options.groups; ++g) {
    scores[static_cast<std::size_t>(g)] = group_score(choice + g * size, size, options.group_score);
  }
  std::vector<std::int32_t> best(static_cast<std::size_t>(options.top_groups));
  std::vector<float> values(best.size());
  choose(scores.data(), options.groups, options.top_groups, {best.data(), values.data()});
  for (std::int32_t g = 0; g < options.groups; ++g) {
    if (std::find(best.begin(), best.end(), g) == best.end()) std::fill_n(choice + g * size, size, kNever);
  }
}

/// SparseMixer-v2 at inference (Liu et al., arXiv 2409.12136). Changes `choice`.
void mix_sparsely(const float* logits, float* choice, std::int64_t count, const RouterOptions& options, Chosen chosen) {
  for (int i = 0; i < options.top_k; ++i) {
    choose(choice, count, 1, {chosen.experts + i, chosen.values + i});
    const float largest = chosen.values[i];
    float sum = 0;
    for (std::int64_t e = 0; e < count; ++e) {
      const bool far = (largest - logits[e]) / std::max(std::abs(logits[e]), largest) > 2 * options.jitter;
      if (choice[e] > kNever && !far) sum += fast_exp(logits[e] - largest);
    }
    chosen.values[i] = 1 / sum;
    choice[chosen.experts[i]] = kNever;
  }
}

/// Empties places after as many of the chosen as `top_p` asks for.
void cut(const RouterOptions& options, Chosen chosen) {
  float sum = 0;
  for (int i = 0; i < options.top_k; ++i) {
    if (sum >= options.top_p) chosen.experts[i] = -1;
    sum += chosen.values[i];
  }
}

/// Normalises, scales and sorts by falling weight; places without an expert go last.
void finish(const RouterOptions& options, std::int64_t experts, Chosen chosen) {
  float sum = 0;
  for (int i = 0; i < options.top_k; ++i) {
    if (chosen.experts[i] >= experts) chosen.experts[i] = -1;
    if (chosen.experts[i] < 0) chosen.values[i] = 0;
    sum += chosen.values[i];
  }
  sum = std::max(sum + options.added_to_sum, options.least_sum);
  const auto goes_first = [&](int a, int b) {
    const std::int32_t x = chosen.experts[a];
    const std::int32_t y = chosen.experts[b];
    if (x < 0 || y < 0) return y < 0 && x >= 0;
    return chosen.values[a] > chosen.values[b] || (chosen.values[a] == chosen.values[b] && x < y);
  };
  for (int i = 0; i < options.top_k; ++i) {
    if (chosen.experts[i] >= 0 && options.normalise) chosen.values[i] /= sum;
    if (chosen.experts[i] >= 0) chosen.values[i] *= options.scale;
    for (int place = i; place > 0 && goes_first(place, place - 1); --place) {
      std::swap(chosen.experts[place], chosen.experts[place - 1]);
      std::swap(chosen.values[place], chosen.values[place - 1]);
    }
  }
}

/// Whether experts are chosen by other numbers than their scores.
bool chooses_apart(const RouterOptions& options, const RouterBiases& biases) {
  return biases.choice.data != nullptr || options.top_groups < options.groups ||
         options.scoring == Scoring::sparse_mixer;
}

/// One token: `row` are its logits and becomes its scores; `choice` is room for as many numbers.
void route_row(float* row, float* choice, std::int64_t count, const RouterOptions& options, const RouterBiases& biases,
               Chosen chosen) {
  const int k = options.top_k;
  if (biases.logits.data != nullptr) add(row, biases.logits, row);
  if (options.scoring == Scoring::softmax) softmax(row, count);
  if (options.scoring == Scoring::sigmoid) sigmoid(row, count);
  const float* by = row;
  if (chooses_apart(options, biases)) {
    std::copy_n(row, count, choice);
    if (biases.choice.data != nullptr) add(choice, biases.choice, row);
    if (options.top_groups < options.groups) keep_best_groups(choice, count, options);
    by = choice;
  }
  if (options.scoring == Scoring::sparse_mixer) {
    mix_sparsely(row, choice, count, options, chosen);
  } else {
    choose(by, count, k, chosen);
    for (int i = 0; i < k; ++i) chosen.values[i] = row[chosen.experts[i]];
  }
  if (options.scoring == Scoring::softmax_of_chosen) softmax(chosen.values, k);
  if (options.top_p < 1) cut(options, chosen);
  finish(options, count - options.null_experts, chosen);
}

}  // namespace

Routing CpuDevice::route(const Tensor& in, const PackedMatrix& weight, const RouterOptions& options,
                         const RouterBiases& biases) {
  const std::int64_t outputs = weight.out_features();
  require_router(options, biases, outputs);
  float* numbers = logits_.get<float>(in.rows * outputs * 2);
  const Tensor logits{reinterpret_cast<std::byte*>(numbers), DType::f32, in.rows, outputs, outputs};
  linear(in, weight, logits, false);
  Routing routing;
  const auto total = static_cast<std::size_t>(in.rows * options.top_k);
  routing.top_k = options.top_k;
  routing.experts.resize(total);
  routing.weights.resize(total);
  parallel_for(threads_for(in.rows * outputs * 20), in.rows, [&](std::int64_t t) {
    route_row(f32_row(logits, t), numbers + (in.rows + t) * outputs, outputs, options, biases,
              {routing.experts.data() + t * options.top_k, routing.weights.data() + t * options.top_k});
  });
  return routing;
}

}  // namespace coterie
