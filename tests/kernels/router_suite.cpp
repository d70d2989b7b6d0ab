// The router's choices, against plain loops in double precision.
#include "tests/kernels/device_suite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace coterie {
namespace {

constexpr double never = -std::numeric_limits<double>::infinity();

struct Choice {
  std::vector<int> experts;
  std::vector<double> weights;
  double margin = std::numeric_limits<double>::infinity();  ///< of the closest call between different numbers
};

/// Indices by falling value, the lower first among equals.
std::vector<int> falling(const std::vector<double>& values) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) { return values[std::size_t(a)] > values[std::size_t(b)]; });
  return order;
}

void note_margin(Choice& choice, const std::vector<double>& values, const std::vector<int>& order, int taken) {
  for (std::size_t i = 0; i + 1 < order.size() && i < static_cast<std::size_t>(taken); ++i) {
    const double gap = values[std::size_t(order[i])] - values[std::size_t(order[i + 1])];
    if (gap > 0) choice.margin = std::min(choice.margin, gap);
  }
}

std::vector<double> softmax(std::vector<double> logits) {
  const double most = std::ranges::max(logits);
  double sum = 0;
  for (double& x : logits) sum += x = std::exp(x - most);
  for (double& x : logits) x /= sum;
  return logits;
}

void keep_groups(Choice& out, const RouterOptions& options, std::vector<double>& by) {
  const std::size_t size = by.size() / static_cast<std::size_t>(options.groups);
  std::vector<double> scores;
  for (std::size_t g = 0; g < by.size() / size; ++g) {
    std::vector<double> group(by.begin() + std::ptrdiff_t(g * size), by.begin() + std::ptrdiff_t((g + 1) * size));
    std::ranges::sort(group, std::greater<>());
    scores.push_back(options.group_score == GroupScore::largest ? group[0] : group[0] + group[1]);
  }
  const auto order = falling(scores);
  note_margin(out, scores, order, options.top_groups);
  for (std::size_t i = static_cast<std::size_t>(options.top_groups); i < order.size(); ++i) {
    std::fill_n(by.begin() + std::ptrdiff_t(std::size_t(order[i]) * size), size, never);
  }
}

Choice routed(std::vector<double> logits, const RouterOptions& options, const Numbers& bias, const Numbers& extra) {
  Choice out;
  for (std::size_t e = 0; e < bias.size(); ++e) logits[e] += bias[e];
  std::vector<double> scores = logits;
  if (options.scoring == Scoring::softmax) scores = softmax(logits);
  if (options.scoring == Scoring::sigmoid) {
    for (double& x : scores) x = 1 / (1 + std::exp(-x));
  }
  std::vector<double> by = scores;
  for (std::size_t e = 0; e < extra.size(); ++e) by[e] += extra[e];
  if (options.groups > 1) keep_groups(out, options, by);
  const auto order = falling(by);
  note_margin(out, by, order, options.top_k);
  std::vector<double> chosen;
  for (int i = 0; i < options.top_k; ++i) chosen.push_back(scores[std::size_t(order[std::size_t(i)])]);
  if (options.scoring == Scoring::softmax_of_chosen) chosen = softmax(chosen);
  double reached = 0;
  double sum = 0;
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    if (options.top_p < 1 && i > 0) out.margin = std::min(out.margin, std::abs(reached - options.top_p));
    const bool here = options.top_p >= 1 || reached < options.top_p;
    reached += chosen[i];
    if (!here || order[i] >= static_cast<int>(logits.size()) - options.null_experts) continue;
    out.experts.push_back(order[i]);
    out.weights.push_back(chosen[i]);
    sum += chosen[i];
  }
  sum = std::max<double>(sum + options.added_to_sum, options.least_sum);
  for (double& w : out.weights) w *= options.scale / (options.normalise ? sum : 1);
  std::vector<double> by_id(logits.size(), never);  // falling weight, then the lower id
  for (std::size_t i = 0; i < out.experts.size(); ++i) by_id[std::size_t(out.experts[i])] = out.weights[i];
  const auto places = falling(by_id);
  note_margin(out, by_id, places, static_cast<int>(out.experts.size()) - 1);
  for (std::size_t i = 0; i < out.experts.size(); ++i) {
    out.experts[i] = places[i];
    out.weights[i] = by_id[std::size_t(places[i])];
  }
  return out;
}

/// So that the inputs are the logits.
Numbers identity(std::size_t n) {
  Numbers numbers(n * n);
  for (std::size_t i = 0; i < n; ++i) numbers[i * n + i] = 1;
  return numbers;
}

TEST_P(DeviceTest, RouterChoosesAsItsOptionsSay) {
  int compared = 0;
  const int rounds = 300;
  const std::int64_t rows = 5;
  for (int round = 0; round < rounds; ++round) {
    RouterOptions options;
    options.groups = std::vector{1, 1, 2, 4, 8}[std::size_t(uniform(0, 4))];
    options.top_groups = static_cast<int>(uniform(1, options.groups));
    options.group_score = uniform(0, 1) == 0 ? GroupScore::largest : GroupScore::two_largest;
    options.scoring = std::vector{Scoring::softmax, Scoring::sigmoid, Scoring::softmax_of_chosen}[uniform(0, 2)];
    options.normalise = uniform(0, 1) == 0;
    options.added_to_sum = uniform(0, 3) == 0 ? 0.25F : 0;
    options.least_sum = uniform(0, 3) == 0 ? 0.5F : 0;
    options.scale = uniform(0, 1) == 0 ? 1 : 2.5F;
    options.top_p = uniform(0, 3) == 0 ? 0.6F : 1;
    const std::int64_t experts = options.groups * uniform(2, 9);
    options.top_k =
        static_cast<int>(uniform(1, std::min<std::int64_t>(10, experts / options.groups * options.top_groups)));
    options.null_experts = uniform(0, 3) == 0 ? static_cast<int>(experts / 3) : 0;
    const Numbers bias = uniform(0, 1) == 0 ? Numbers{} : normal(experts);
    const Numbers extra = uniform(0, 1) == 0 ? Numbers{} : normal(experts);
    const Numbers in = as_weights(normal(rows * experts));
    const Array b = on_device(bias, bias.empty() ? 0 : 1, experts);
    const Array c = on_device(extra, extra.empty() ? 0 : 1, experts);
    const RouterBiases biases{bias.empty() ? Tensor{} : b.tensor, extra.empty() ? Tensor{} : c.tensor};
    const Array x = on_device(in, rows, experts);
    const auto matrix = packed(identity(std::size_t(experts)), experts, experts);
    const Routing routing = device->route(x.tensor, *matrix, options, biases);
    ASSERT_EQ(routing.top_k, options.top_k);
    ASSERT_EQ(routing.experts.size(), std::size_t(rows * options.top_k));
    ASSERT_EQ(routing.weights.size(), std::size_t(rows * options.top_k));
    for (std::int64_t t = 0; t < rows; ++t) {
      const Choice expected = routed({in.begin() + t * experts, in.begin() + (t + 1) * experts}, options, bias, extra);
      if (expected.margin < 1e-5) continue;
      ++compared;
      for (int i = 0; i < options.top_k; ++i) {
        const auto at = std::size_t(t * options.top_k + i);
        const bool empty = std::size_t(i) >= expected.experts.size();
        ASSERT_EQ(routing.experts[at], empty ? -1 : expected.experts[std::size_t(i)]) << "round " << round;
        ASSERT_NEAR(routing.weights[at], empty ? 0 : expected.weights[std::size_t(i)], 1e-5) << "round " << round;
      }
      const Routing alone = device->route(x.tensor.row_range(t, 1), *matrix, options, biases);
      expect_same(alone.weights,
                  std::span(routing.weights).subspan(std::size_t(t * options.top_k), std::size_t(options.top_k)),
                  "a row by itself");
    }
  }
  EXPECT_GT(compared, rounds * rows / 2);
}

TEST_P(DeviceTest, RouterMultipliesWithItsWeight) {
  const std::int64_t rows = 50;
  const std::int64_t experts = 11;
  const std::int64_t inputs = 36;
  const Numbers in = normal(rows * inputs);
  const Numbers weight = normal(experts * inputs, 0.2F);
  const auto logits = product(as_weights(in), as_weights(weight), rows, inputs, experts);
  const Array x = on_device(in, rows, inputs);
  const RouterOptions options{.top_k = 3, .normalise = true};
  const Routing routing = device->route(x.tensor, *packed(weight, experts, inputs), options);
  for (std::int64_t t = 0; t < rows; ++t) {
    std::vector<double> row;
    for (std::int64_t e = 0; e < experts; ++e) row.push_back(logits[std::size_t(t * experts + e)].value);
    const Choice expected = routed(row, options, {}, {});
    if (expected.margin < 1e-5) continue;
    for (std::size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(routing.experts[std::size_t(t) * 3 + i], expected.experts[i]);
      EXPECT_NEAR(routing.weights[std::size_t(t) * 3 + i], expected.weights[i], 1e-5);
    }
  }
}

TEST_P(DeviceTest, RouterPrefersTheLowerOfEquals) {
  const Numbers weight = {1, 1, 0, 0, 1, 1, 2, 2, 1, 1};  // experts 0, 2, 4 are the same
  const Numbers in = {1, 1, -1, -1, 0, 0};
  const Array x = on_device(in, 3, 2);
  const auto matrix = packed(weight, 5, 2);
  const Routing routing = device->route(x.tensor, *matrix, {5, false});
  EXPECT_EQ(routing.experts, (std::vector<std::int32_t>{3, 0, 2, 4, 1, 1, 0, 2, 4, 3, 0, 1, 2, 3, 4}));
  EXPECT_EQ(routing.weights[1], routing.weights[3]);
  EXPECT_EQ(device->route(x.tensor.row_range(0, 0), *matrix, {2, true}).experts.size(), 0U);
  EXPECT_THROW((void)device->route(x.tensor, *matrix, {6, false}), std::invalid_argument);
  EXPECT_THROW((void)device->route(x.tensor, *matrix, {.groups = 2}), std::invalid_argument);

  // Among equal groups too.
  const Array zeros = on_device(Numbers(8), 1, 8);
  const auto any = packed(identity(8), 8, 8);
  EXPECT_EQ(device->route(zeros.tensor, *any, {.top_k = 3, .groups = 4, .top_groups = 2}).experts,
            (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_THROW((void)device->route(zeros.tensor, *any, {.top_k = 5, .groups = 4, .top_groups = 2}),
               std::invalid_argument);
}

TEST_P(DeviceTest, SparseMixerLeavesOutWhatIsFarBelow) {
  // Largest 2: 1.75 is within 2 * 0.1 of it, relative to 2; -4 and 1 are not. Without 2, nothing else is near 1.75.
  const Array x = on_device(Numbers{1, 2, -4, 1.75F}, 1, 4);
  const Routing routing = device->route(x.tensor, *packed(identity(4), 4, 4),
                                        {.top_k = 2, .scoring = Scoring::sparse_mixer, .jitter = 0.1F});
  EXPECT_EQ(routing.experts, (std::vector<std::int32_t>{3, 1}));  // by falling weight, not in the order of the choice
  EXPECT_NEAR(routing.weights[0], 1, 1e-6);
  EXPECT_NEAR(routing.weights[1], 1 / (1 + std::exp(-0.25)), 1e-6);
}

}  // namespace
}  // namespace coterie
