// Products with packed weights.
#include "tests/kernels/device_suite.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

namespace coterie {
namespace {

struct Size {
  std::int64_t outputs;
  std::int64_t inputs;
};

TEST_P(DeviceTest, LinearIsTheProduct) {
  for (const auto& [outputs, inputs] : {Size{1, 1}, {5, 3}, {24, 40}, {17, 33}, {128, 128}, {100, 257}, {64, 1030}}) {
    const Numbers weight = normal(outputs * inputs);
    const auto matrix = packed(weight, outputs, inputs);
    EXPECT_EQ(matrix->out_features(), outputs);
    EXPECT_EQ(matrix->in_features(), inputs);
    for (const std::int64_t rows : {0, 1, 2, 7, 33}) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(inputs) + " x " + std::to_string(outputs));
      const Numbers in = normal(rows * inputs);
      const Array x = on_device(in, rows, inputs, 3);
      const Array y = blank(rows, outputs, 5);
      device->linear(x.tensor, *matrix, y.tensor);
      auto expected = product(as_weights(in), as_weights(weight), rows, inputs, outputs);
      expect_within(on_host(y), expected);

      const Numbers before = normal(rows * outputs);
      device->upload(before, y.tensor);
      device->linear(x.tensor, *matrix, y.tensor, true);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        expected[i].value += before[i];
        expected[i].bound += std::abs(expected[i].value) * std::numeric_limits<float>::epsilon();
      }
      expect_within(on_host(y), expected);
    }
  }
}

TEST_P(DeviceTest, WeightsThatFitBf16GiveTheSameBits) {
  for (const auto& [outputs, inputs] : {Size{1, 1}, {24, 40}, {17, 33}, {128, 128}, {100, 257}, {64, 1030}}) {
    Numbers weight = normal(outputs * inputs);
    for (float& w : weight) w = std::bit_cast<float>(std::bit_cast<std::uint32_t>(w) & 0xffff0000U);
    const auto as_f32 = packed(weight, outputs, inputs);
    const auto cols = inputs;
    WeightSource source{outputs, inputs, [&](std::int64_t first, std::int64_t count, float* out) {
                          std::copy_n(weight.begin() + first * cols, count * cols, out);
                        }};
    source.fits_bf16 = true;
    const auto fitting = device->pack(source);
    for (const std::int64_t rows : {1, 2, 7, 33}) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(inputs) + " x " + std::to_string(outputs));
      const Array x = on_device(normal(rows * inputs), rows, inputs);
      const Array a = blank(rows, outputs);
      const Array b = blank(rows, outputs);
      device->linear(x.tensor, *as_f32, a.tensor);
      device->linear(x.tensor, *fitting, b.tensor);
      EXPECT_EQ(on_host(a), on_host(b));
    }
  }
}

TEST_P(DeviceTest, AMatrixThatTravelledGivesTheSameBits) {
  for (const bool fits : {false, true}) {
    for (const auto& [outputs, inputs] : {Size{1, 1}, {17, 33}, {64, 128}}) {
      Numbers weight = normal(outputs * inputs);
      if (fits) {
        for (float& w : weight) w = std::bit_cast<float>(std::bit_cast<std::uint32_t>(w) & 0xffff0000U);
      }
      const auto cols = inputs;
      WeightSource source{outputs, inputs, [&](std::int64_t first, std::int64_t count, float* out) {
                            std::copy_n(weight.begin() + first * cols, count * cols, out);
                          }};
      source.fits_bf16 = fits;
      const auto here = device->pack(source);
      const DeviceMemory memory = device->allocate_shared(here->bytes().size());
      device->copy(here->bytes(), {memory.get(), here->bytes().size()});
      const auto there = device->adopt(here->form(), {memory.get(), here->bytes().size()});
      EXPECT_EQ(there->bytes().size(), here->bytes().size());
      const Array x = on_device(normal(5 * inputs), 5, inputs);
      const Array a = blank(5, outputs), b = blank(5, outputs);
      device->linear(x.tensor, *here, a.tensor);
      device->linear(x.tensor, *there, b.tensor);
      EXPECT_EQ(on_host(a), on_host(b));
      EXPECT_THROW((void)device->adopt(here->form(), here->bytes().first(here->bytes().size() - 1)),
                   std::invalid_argument);
    }
  }
}

TEST_P(DeviceTest, LinearOfARowDoesNotDependOnTheRowsBesideIt) {
  std::vector<Size> sizes = {{24, 40},   {32, 32}, {40, 24},   {128, 128}, {100, 100},
                             {16, 1024}, {8, 128}, {96, 2880}, {64, 7168}};
  for (int i = 0; i < 4; ++i) sizes.push_back({uniform(1, 300), uniform(1, 3000)});
  for (const auto& [outputs, inputs] : sizes) {
    const std::int64_t rows = 300;
    const Numbers in = normal(rows * inputs);
    const auto matrix = packed(normal(outputs * inputs), outputs, inputs);
    const Array x = on_device(in, rows, inputs);
    const Array whole = blank(rows, outputs);
    device->linear(x.tensor, *matrix, whole.tensor);
    const Numbers expected = on_host(whole);
    for (int i = 0; i < 25; ++i) {
      const std::int64_t count = i < 15 ? i + 1 : uniform(1, rows);
      const std::int64_t first = uniform(0, rows - count);
      const Array part = blank(count, outputs);
      device->linear(x.tensor.row_range(first, count), *matrix, part.tensor);
      expect_same(on_host(part),
                  std::span(expected).subspan(static_cast<std::size_t>(first * outputs),
                                              static_cast<std::size_t>(count * outputs)),
                  std::to_string(inputs) + " x " + std::to_string(outputs) + ", rows " + std::to_string(first) + " + " +
                      std::to_string(count));
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(DeviceTest, ThreadsChangeNoBit) {
  DeviceOptions options = GetParam().options;
  options.threads = options.threads == 1 ? 3 : 1;
  const auto other = GetParam().make(options);
  const std::int64_t rows = 131;
  const std::int64_t inputs = 1500;
  const std::int64_t outputs = 200;
  const Array x = on_device(normal(rows * inputs), rows, inputs);
  const Array one = blank(rows, outputs);
  const Array two = blank(rows, outputs);
  const auto matrix = packed(normal(outputs * inputs), outputs, inputs);
  device->linear(x.tensor, *matrix, one.tensor);
  other->linear(x.tensor, *matrix, two.tensor);
  other->wait();
  expect_same(on_host(one), on_host(two), "linear");

  // Few experts: threads share each. Many: each is one thread's.
  const ExpertWeights expert{packed(normal(400 * inputs, 0.1F), 400, inputs),
                             packed(normal(inputs * 200), inputs, 200)};
  for (const std::int64_t each : {131, 10}) {
    std::vector<ExpertRows> groups;
    for (std::int64_t r = 0; r < rows; r += each) groups.push_back({&expert, r, std::min(each, rows - r)});
    const Array first = blank(rows, inputs);
    const Array second = blank(rows, inputs);
    device->experts(x.tensor, groups, first.tensor);
    other->experts(x.tensor, groups, second.tensor);
    other->wait();
    expect_same(on_host(first), on_host(second), "experts of " + std::to_string(each) + " rows");
  }
}

TEST_P(DeviceTest, LinearShowsNotANumber) {
  Numbers in = normal(3 * 20);
  in[25] = std::numeric_limits<float>::quiet_NaN();
  in[45] = std::numeric_limits<float>::infinity();
  const Array x = on_device(in, 3, 20);
  const Array y = blank(3, 10);
  device->linear(x.tensor, *packed(normal(10 * 20), 10, 20), y.tensor);
  const Numbers out = on_host(y);
  for (std::size_t o = 0; o < 10; ++o) {
    EXPECT_TRUE(std::isfinite(out[o]));
    EXPECT_TRUE(std::isnan(out[10 + o]));
    EXPECT_TRUE(std::isinf(out[20 + o]));
  }
}

TEST_P(DeviceTest, LinearRefusesShapesThatDoNotFit) {
  const auto matrix = packed(normal(12), 3, 4);
  const Array five = on_device(normal(10), 2, 5);
  const Array four = on_device(normal(8), 2, 4);
  const Array two = blank(2, 2);
  const Array three = blank(1, 3);
  EXPECT_THROW(device->linear(five.tensor, *matrix, three.tensor), std::invalid_argument);
  EXPECT_THROW(device->linear(four.tensor, *matrix, two.tensor), std::invalid_argument);
  EXPECT_THROW(device->linear(four.tensor, *matrix, three.tensor), std::invalid_argument);
}

TEST_P(DeviceTest, PackingReadsEveryRowOnceInBoundedPieces) {
  const std::int64_t rows = 3000;
  const std::int64_t cols = 5000;
  std::vector<int> reads(rows);
  std::int64_t largest = 0;
  const auto matrix = device->pack({rows, cols, [&](std::int64_t first, std::int64_t count, float* out) {
                                      for (std::int64_t r = first; r < first + count; ++r)
                                        ++reads[static_cast<std::size_t>(r)];
                                      std::fill_n(out, count * cols, 1.0F);
                                      largest = std::max(largest, count * cols * 4);
                                    }});
  EXPECT_TRUE(std::ranges::all_of(reads, [](int n) { return n == 1; }));
  EXPECT_LE(largest, std::int64_t{16} << 20);
  const auto dense = static_cast<double>(rows * cols) * static_cast<double>(size_of(GetParam().options.weights));
  EXPECT_LE(static_cast<double>(matrix->bytes().size()), dense * 1.02);
}

TEST_P(DeviceTest, GateIsTheSigmoidOfOneOutput) {
  const Numbers x = normal(7 * 36);
  const Numbers weight = normal(36, 0.4F);
  const Numbers in = normal(7 * 150);
  const auto logits = product(as_weights(x), as_weights(weight), 7, 36, 1);
  const Array out = blank(7, 150, 3);
  device->gate(on_device(x, 7, 36).tensor, *packed(weight, 1, 36), 0.5F, on_device(in, 7, 150, 5).tensor, out.tensor);
  const Numbers actual = on_host(out);
  for (std::size_t i = 0; i < in.size(); ++i) {
    EXPECT_NEAR(actual[i], 0.5 / (1 + std::exp(-logits[i / 150].value)) * in[i], 1e-5 * (1 + std::abs(in[i])));
  }
}

}  // namespace
}  // namespace coterie
