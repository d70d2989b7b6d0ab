#include "tests/kernels/device_suite.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

namespace coterie {
namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

/// Logits with ties, of both zeros too, and some that are never chosen.
Numbers logits_of(DeviceTest& test, std::int64_t rows, std::int64_t vocabulary) {
  Numbers all;
  for (std::int64_t r = 0; r < rows; ++r) {
    const float spread = std::pow(10.0F, static_cast<float>(test.uniform(-3, 3)));
    Numbers row = test.normal(vocabulary, spread);
    const std::int64_t kind = test.uniform(0, 4);
    for (float& x : row) {
      if (kind == 1) x = std::round(x / spread * 2) - 3;
      if (kind == 2) x = test.uniform(0, 1) == 0 ? 0.0F : -0.0F;
      if (kind == 3 && test.uniform(0, 1) == 0) x = -infinity;
      if (kind == 4) x = -std::abs(x);
    }
    row[static_cast<std::size_t>(test.uniform(0, vocabulary - 1))] = spread;
    all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

template <class T>
T one_of(DeviceTest& test, std::initializer_list<T> all) {
  return all.begin()[test.uniform(0, static_cast<std::int64_t>(all.size()) - 1)];
}

RowSampling any_sampling(DeviceTest& test, std::int32_t row, std::int64_t vocabulary) {
  const auto size = static_cast<int>(vocabulary);
  const auto id = [&] { return static_cast<int>(test.uniform(0, vocabulary - 1)); };
  return {.row = row,
          .temperature = one_of(test, {0.0F, 1e-30F, 0.01F, 0.7F, 1.0F, 1.0F, 2.0F, 30.0F, 1e30F}),
          .top_k = one_of(test, {0, 0, 1, 2, std::min(40, size), id(), size, size + 3}),
          .top_p = one_of(test, {0.0F, 1e-7F, 0.1F, 0.5F, 0.9F, 0.95F, 0.999999F, 1.0F, 1.0F}),
          .share = one_of(test, {0.0, 0.1, 0.5, 0.9, 0.9999, 1 - 0x1p-53}),
          .logprobs = one_of(test, {-1, -1, 0, 1, 5, 20, size + 1}),
          .given = one_of(test, {-1, -1, -1, id()})};
}

void expect_as_the_cpu(DeviceTest& test, std::int64_t rows, std::int64_t vocabulary) {
  const Numbers logits = test.as_weights(logits_of(test, rows, vocabulary));
  std::vector<RowSampling> wanted;
  for (std::int32_t r = 0; r < rows; ++r) {
    if (rows == 1 || test.uniform(0, 7) > 0) wanted.push_back(any_sampling(test, r, vocabulary));
  }
  std::shuffle(wanted.begin(), wanted.end(), test.random);
  const auto judge = make_cpu_device({});
  Array there;
  there.tensor = judge->allocate(rows, vocabulary, there.memory);
  judge->upload(logits, there.tensor);
  const std::vector<Sampled> expected = judge->sample(there.tensor, wanted);
  const std::vector<Sampled> actual = test.device->sample(test.on_device(logits, rows, vocabulary, 3).tensor, wanted);
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    const RowSampling& w = wanted[i];
    SCOPED_TRACE("row " + std::to_string(w.row) + " of " + std::to_string(vocabulary) + ", temperature " +
                 std::to_string(w.temperature) + ", top_k " + std::to_string(w.top_k) + ", top_p " +
                 std::to_string(w.top_p) + ", share " + std::to_string(w.share));
    ASSERT_EQ(actual[i].token, expected[i].token);
    ASSERT_EQ(actual[i].logprobs.chosen, expected[i].logprobs.chosen);
    ASSERT_EQ(actual[i].logprobs.top, expected[i].logprobs.top);
  }
}

TEST_P(DeviceTest, SamplesTheSameTokensAsTheCpu) {
  for (const std::int64_t vocabulary : {1, 2, 3, 31, 33, 1000, 1025, 2048}) {
    expect_as_the_cpu(*this, uniform(1, 9), vocabulary);
  }
  expect_as_the_cpu(*this, 64, uniform(2, 300));
  expect_as_the_cpu(*this, 3, 32'003);
}

TEST_P(DeviceTest, SamplesFromVocabulariesOfAnySize) {
  expect_as_the_cpu(*this, 2, 262'144);
  expect_as_the_cpu(*this, 1, 300'001);
  // More of one weight than a part of it is counted in at once.
  const std::int64_t vocabulary = 600'000;
  const Array flat = on_device(Numbers(static_cast<std::size_t>(vocabulary), 1.5F), 1, vocabulary);
  const RowSampling wanted{.top_k = 500'000, .top_p = 0.5F, .share = 0.5};
  EXPECT_EQ(device->sample(flat.tensor, {&wanted, 1}).front().token, 125'000);
}

TEST_P(DeviceTest, SamplesAsTheDistributionSays) {
  const std::int64_t vocabulary = 1'200;
  const Numbers logits = as_weights(normal(vocabulary, 2));
  const Array there = on_device(logits, 1, vocabulary);
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int a, int b) { return logits[a] > logits[b]; });
  order.resize(100);  // top_k
  std::map<std::int32_t, double> weights;
  double total = 0;
  for (const std::int32_t id : order) total += weights[id] = std::exp(double{logits[id]} / 0.8);
  double passed = 0;
  for (const auto& [id, weight] : weights) {
    const RowSampling middle{.temperature = 0.8F, .top_k = 100, .share = (passed + weight / 2) / total};
    ASSERT_EQ(device->sample(there.tensor, {&middle, 1}).front().token, id);
    passed += weight;
  }
}

TEST_P(DeviceTest, SamplesNothingFromLogitsThatAreNoNumbers) {
  const std::int64_t vocabulary = 1'100;
  const auto throws = [&](const Numbers& logits, RowSampling wanted) {
    const Array there = on_device(logits, 3, vocabulary);
    wanted.row = 1;
    EXPECT_THROW((void)device->sample(there.tensor, {&wanted, 1}), BrokenLogits);
    wanted.row = 2;  // another's logits are no concern of it
    EXPECT_NO_THROW((void)device->sample(there.tensor, {&wanted, 1}));
  };
  const Numbers sound = normal(3 * vocabulary);
  for (const std::int64_t at : {0, 31, 1'099}) {
    for (const float broken :
         {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(), infinity}) {
      Numbers logits = sound;
      logits[static_cast<std::size_t>(vocabulary + at)] = broken;
      throws(logits, one_of(*this, {RowSampling{.temperature = 0}, RowSampling{}, RowSampling{.given = 3}}));
    }
  }
  Numbers none = sound;
  std::fill_n(none.begin() + vocabulary, vocabulary, -infinity);
  throws(none, {});
}

}  // namespace
}  // namespace coterie
