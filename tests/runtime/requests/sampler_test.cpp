#include "runtime/requests/sampler.hpp"

#include "kernels/device.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

namespace coterie {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

Sampled sample(std::vector<float> logits, const RowSampling& wanted) {
  static const auto device = make_cpu_device({});
  const auto size = static_cast<std::int64_t>(logits.size());
  const Tensor row{reinterpret_cast<std::byte*>(logits.data()), DType::f32, 1, size, size};
  return device->sample(row, {&wanted, 1}).front();
}
Sampled sample(const std::vector<float>& logits, const SamplingOptions& options, std::uint64_t key,
               std::int64_t position) {
  return sample(logits, next_token(options, key, position));
}

std::vector<float> random_logits(std::size_t n, float spread, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> logits(n);
  for (float& l : logits) l = normal(random);
  return logits;
}

/// The distribution that `sample` should draw from, by the definition: sort, cut, normalise; in double.
std::vector<double> exact_probabilities(const std::vector<float>& logits, const SamplingOptions& o) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  if (o.top_k > 0 && o.top_k < static_cast<int>(order.size())) order.resize(o.top_k);
  const auto weight = [&](int id) { return std::exp((double{logits[id]} - logits[order[0]]) / o.temperature); };
  double total = 0;
  for (const int id : order) total += weight(id);
  double kept = 0;
  std::size_t count = 0;
  while (count < order.size() && (count == 0 || kept < o.top_p * total)) kept += weight(order[count++]);
  std::vector<double> probabilities(logits.size(), 0.0);
  for (std::size_t i = 0; i < count; ++i) probabilities[order[i]] = weight(order[i]) / kept;
  return probabilities;
}

TEST(Sampler, GreedyTakesTheLargestAndTheLowestOfEquals) {
  const SamplingOptions greedy{.temperature = 0};
  EXPECT_EQ(sample(std::vector<float>{1, 3, 2}, greedy, 1, 1).token, 1);
  EXPECT_EQ(sample(std::vector<float>{1, 3, 3, 3}, greedy, 1, 1).token, 1);
  EXPECT_EQ(sample(std::vector<float>{-kInfinity, -1e30F}, greedy, 1, 1).token, 1);
  EXPECT_EQ(sample(std::vector<float>{5}, greedy, 1, 1).token, 0);
  std::vector<float> many = random_logits(1003, 1, 5);
  many[1002] = 100;
  EXPECT_EQ(sample(many, greedy, 1, 1).token, 1002);
  many[17] = 100;
  EXPECT_EQ(sample(many, greedy, 1, 1).token, 17);
}

TEST(Sampler, LogitsThatAreNoNumbersAreAnError) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> logits = random_logits(37, 1, 1);
  for (const std::size_t at : {0, 8, 35, 36}) {
    auto broken = logits;
    broken[at] = nan;
    for (const float temperature : {0.0F, 1.0F}) {
      EXPECT_THROW(static_cast<void>(sample(broken, {.temperature = temperature}, 1, 1)), std::runtime_error) << at;
    }
  }
  EXPECT_THROW(static_cast<void>(sample(std::vector<float>{0, kInfinity}, {}, 1, 1)), std::runtime_error);
  EXPECT_THROW(static_cast<void>(sample(std::vector<float>{-kInfinity, -kInfinity}, {}, 1, 1)), std::runtime_error);
  EXPECT_THROW(static_cast<void>(sample(std::vector<float>{}, {}, 1, 1)), std::invalid_argument);
}

struct Shape {
  float temperature;
  int top_k;
  float top_p;
};

class SamplerFrequencies : public testing::TestWithParam<Shape> {};

/// Pearson's test on 40,000 draws; the bound is the 99.99 % quantile of chi-square (Wilson and Hilferty's
/// approximation), and the draws are the same in every run.
TEST_P(SamplerFrequencies, AreThoseOfTheExactDistribution) {
  const Shape shape = GetParam();
  const SamplingOptions options{
      .temperature = shape.temperature, .top_k = shape.top_k, .top_p = shape.top_p, .seed = 7};
  const std::vector<float> logits = random_logits(50, 1.5F, 3);
  const std::vector<double> exact = exact_probabilities(logits, options);
  constexpr int kDraws = 40'000;
  std::vector<int> seen(logits.size());
  for (int i = 0; i < kDraws; ++i)
    ++seen[sample(logits, options, request_key("r" + std::to_string(i % 40)), i / 40).token];

  double chi_square = 0, rare = 0;
  int rare_seen = 0, cells = 0;
  const auto add = [&](double expected, int count) {
    chi_square += (count - expected) * (count - expected) / expected;
    ++cells;
  };
  for (std::size_t id = 0; id < logits.size(); ++id) {
    if (exact[id] == 0) {
      EXPECT_EQ(seen[id], 0) << "token " << id << " was cut off";
    } else if (exact[id] * kDraws < 10) {
      rare += exact[id] * kDraws;
      rare_seen += seen[id];
    } else {
      add(exact[id] * kDraws, seen[id]);
    }
  }
  if (rare > 0) add(rare, rare_seen);
  const double freedom = std::max(cells - 1, 1);
  const double bound = freedom * std::pow(1 - 2 / (9 * freedom) + 3.719 * std::sqrt(2 / (9 * freedom)), 3);
  EXPECT_LT(chi_square, bound) << cells << " cells";
}

INSTANTIATE_TEST_SUITE_P(Shapes, SamplerFrequencies,
                         testing::Values(Shape{1, 0, 1}, Shape{0.5F, 0, 1}, Shape{2, 0, 1}, Shape{1, 5, 1},
                                         Shape{1, 1, 1}, Shape{1, 0, 0.9F}, Shape{1, 0, 0.3F}, Shape{1, 10, 0.8F},
                                         Shape{3, 40, 0.99F}, Shape{1, 1000, 0.999F}, Shape{1, 0, 1e-6F}));

TEST(Sampler, NeverDrawsATokenBehindTheCuts) {
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    const std::size_t n = 1 + random() % 5000;
    std::vector<float> logits = random_logits(n, 0.1F + static_cast<float>(random() % 100) / 10, random());
    for (float& l : logits) {
      if (random() % 4 == 0) l = std::round(l);  // ties
      if (random() % 16 == 0) l = -kInfinity;
    }
    logits[random() % n] = 3;
    SamplingOptions o;
    o.temperature = 0.05F + static_cast<float>(random() % 300) / 100;
    o.top_k = static_cast<int>(random() % 3 == 0 ? 0 : random() % (n + 2));
    o.top_p = random() % 3 == 0 ? 1.0F : 0.001F * static_cast<float>(1 + random() % 999);
    const std::vector<double> exact = exact_probabilities(logits, o);
    for (int position = 0; position < 8; ++position) {
      const std::int32_t token = sample(logits, o, round, position).token;
      ASSERT_GT(exact[token], 0) << "round " << round << ", k " << o.top_k << ", p " << o.top_p;
    }
  }
}

TEST(Sampler, ADrawDependsOnSeedRequestAndPositionAlone) {
  const std::vector<float> logits = random_logits(1000, 1, 2);
  const auto draws = [&](std::uint64_t seed, std::uint64_t request) {
    std::vector<std::int32_t> tokens;
    for (int position = 0; position < 64; ++position) {
      tokens.push_back(sample(logits, {.seed = seed}, request, position).token);
    }
    return tokens;
  };
  const auto first = draws(1, request_key("a"));
  static_cast<void>(draws(5, 5));  // whatever came between
  EXPECT_EQ(draws(1, request_key("a")), first);
  EXPECT_NE(draws(2, request_key("a")), first);
  EXPECT_NE(draws(1, request_key("b")), first);
  EXPECT_NE(draws(std::uint64_t{1} << 40, request_key("a")), first);
  EXPECT_GT(std::set<std::int32_t>(first.begin(), first.end()).size(), 40U);
}

TEST(Sampler, TheSameNumbersOnEveryMachine) {
  // By another implementation of the paper: a change of these is a change of what every seed gives.
  EXPECT_EQ(request_key(""), 0xcbf29ce484222325U);
  EXPECT_EQ(request_key("a"), 0xaf63dc4c8601ec8cU);
  std::vector<std::int32_t> tokens;
  for (int position = 0; position < 8; ++position) {
    tokens.push_back(sample(std::vector<float>(1000, 0.0F), {.seed = 42}, request_key("request-1"), position).token);
  }
  EXPECT_EQ(tokens, (std::vector<std::int32_t>{183, 194, 582, 931, 771, 862, 737, 803}));
}

TEST(Sampler, LogprobsAreThoseOfTheModelBeforeTheCuts) {
  for (const std::size_t n : {1U, 7U, 1024U, 5003U}) {
    std::vector<float> logits = random_logits(n, 6, n);
    double sum = 0;
    const float largest = *std::max_element(logits.begin(), logits.end());
    for (const float l : logits) sum += std::exp(double{l} - largest);
    const double log_sum = largest + std::log(sum);
    const Sampled s = sample(logits, {.temperature = 0.7F, .top_k = 3, .top_p = 0.5F, .logprobs = 4}, 1, 1);
    EXPECT_NEAR(s.logprobs.chosen, logits[s.token] - log_sum, 2e-6 * std::abs(log_sum) + 1e-6);
    ASSERT_EQ(s.logprobs.top.size(), std::min<std::size_t>(n, 4));
    std::vector<float> sorted = logits;
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (std::size_t i = 0; i < s.logprobs.top.size(); ++i) {
      const auto& [id, logprob] = s.logprobs.top[i];
      EXPECT_EQ(logits[id], sorted[i]);
      EXPECT_NEAR(logprob, sorted[i] - log_sum, 2e-6 * std::abs(log_sum) + 1e-6);
    }
    const Logprobs given = sample(logits, given_token({.logprobs = 0}, static_cast<std::int32_t>(n) - 1)).logprobs;
    EXPECT_NEAR(given.chosen, logits[n - 1] - log_sum, 2e-6 * std::abs(log_sum) + 1e-5);
    EXPECT_TRUE(given.top.empty());
  }
}

TEST(Sampler, TiesAmongTheReportedGoToTheLowerId) {
  const Sampled s = sample(std::vector<float>{0, 2, 1, 2, 1, 1}, {.temperature = 0, .logprobs = 4}, 1, 1);
  std::vector<std::int32_t> ids;
  for (const auto& [id, logprob] : s.logprobs.top) ids.push_back(id);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{1, 3, 2, 4}));
}

TEST(Sampler, NoLogprobsUnlessAsked) {
  EXPECT_TRUE(sample(std::vector<float>{0, 1}, {}, 1, 1).logprobs.top.empty());
  EXPECT_EQ(sample(std::vector<float>{0, -kInfinity}, {.logprobs = 2}, 1, 1).logprobs.top[1].second, -kInfinity);
}

TEST(Sampler, ExtremeTemperaturesStayNumbers) {
  const std::vector<float> logits{0, 1000, -1000, 999};
  for (const float cold : {1e-44F, 1e-20F, 1e-3F}) EXPECT_EQ(sample(logits, {.temperature = cold}, 1, 1).token, 1);
  std::set<std::int32_t> hot;
  for (int i = 0; i < 100; ++i) hot.insert(sample(logits, {.temperature = 1e30F}, 1, i).token);
  EXPECT_EQ(hot.size(), 4U);
}

}  // namespace
}  // namespace coterie
