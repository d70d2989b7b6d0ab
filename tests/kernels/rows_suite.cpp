// What is done row by row.
#include "tests/kernels/device_suite.hpp"

#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace coterie {
namespace {

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

TEST_P(DeviceTest, UploadAndDownloadAreInverse) {
  const Numbers numbers = normal(7 * 13);
  EXPECT_EQ(on_host(on_device(numbers, 7, 13)), numbers);
  EXPECT_EQ(on_host(on_device(numbers, 7, 13, 6)), numbers);
  EXPECT_EQ(on_host(on_device({}, 0, 13)), Numbers{});
  const Array array = blank(2, 3);
  EXPECT_THROW(device->upload(normal(5), array.tensor), std::invalid_argument);
}

TEST_P(DeviceTest, GatherTakesRowsOfTheTable) {
  const Numbers table = normal(10 * 6);
  const Array t = on_device(table, 10, 6, 2);
  const auto rows = std::vector<std::int32_t>{3, 0, 9, 3};
  const Array out = blank(4, 6, 1);
  device->gather(t.tensor, rows, out.tensor);
  const Numbers got = on_host(out);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    for (std::size_t c = 0; c < 6; ++c) EXPECT_EQ(got[r * 6 + c], table[static_cast<std::size_t>(rows[r]) * 6 + c]);
  }
  EXPECT_THROW(device->gather(t.tensor, std::vector<std::int32_t>{0, 1, 2, 10}, out.tensor), std::invalid_argument);
  EXPECT_THROW(device->gather(t.tensor, std::vector<std::int32_t>{0, -1, 2, 1}, out.tensor), std::invalid_argument);
  const Array none = blank(0, 6);
  device->gather(t.tensor, {}, none.tensor);
}

TEST_P(DeviceTest, GatherWidensBf16) {
  const Numbers table = normal(5 * 7);
  const DeviceMemory memory = device->allocate(table.size() * 2);
  const Tensor t{memory.get(), DType::bf16, 5, 7, 7};
  device->upload(table, t);
  const Array out = blank(2, 7);
  device->gather(t, std::vector<std::int32_t>{4, 1}, out.tensor);
  const Numbers got = on_host(out);
  for (std::size_t c = 0; c < 7; ++c) {
    EXPECT_EQ(got[c], rounded_to_bf16(table[28 + c]));
    EXPECT_EQ(got[7 + c], rounded_to_bf16(table[7 + c]));
  }
}

TEST_P(DeviceTest, CombineAddsContributions) {
  const Numbers in = normal(6 * 9);
  const Numbers before = normal(4 * 9);
  const std::vector<std::int64_t> offsets = {1, 3, 3, 6, 7};
  const std::vector<Contribution> parts = {{0, 9}, {5, 0.5F}, {0, 2}, {1, 1}, {1, -1}, {2, 0.25F}, {3, 1}};
  const Array x = on_device(in, 6, 9);
  for (const bool accumulate : {false, true}) {
    const Array y = accumulate ? on_device(before, 4, 9, 3) : blank(4, 9, 3);
    device->combine(x.tensor, offsets, parts, y.tensor, accumulate);
    const Numbers got = on_host(y);
    for (std::size_t t = 0; t < 4; ++t) {
      for (std::size_t c = 0; c < 9; ++c) {
        double value = accumulate ? before[t * 9 + c] : 0;
        double size = std::abs(value);
        for (auto i = offsets[t]; i < offsets[t + 1]; ++i) {
          const Contribution& part = parts[static_cast<std::size_t>(i)];
          const double term = part.weight * in[static_cast<std::size_t>(part.row) * 9 + c];
          value += term;
          size += std::abs(term);
        }
        EXPECT_NEAR(got[t * 9 + c], value, 4 * size * std::numeric_limits<float>::epsilon());
      }
    }
  }
  const Array y = blank(4, 9);
  EXPECT_THROW(device->combine(x.tensor, offsets, std::vector<Contribution>(7, {6, 1}), y.tensor),
               std::invalid_argument);
  EXPECT_THROW(device->combine(x.tensor, offsets, std::vector<Contribution>(6), y.tensor), std::invalid_argument);
}

TEST_P(DeviceTest, SumRowsIsCombineWhereverTheRowsAre) {
  for (const std::int64_t count : {0, 1, 5, 40, 1100}) {
    const Array x = on_device(normal(6 * 9), 6, 9, 2);
    const Numbers before = normal(count * 9);
    for (const bool accumulate : {false, true}) {
      const Array y = on_device(before, count, 9, 3), expected = on_device(before, count, 9, 3);
      RowSums sums;
      std::vector<std::int64_t> offsets{0};
      std::vector<Contribution> parts;
      for (std::int64_t r = count; r-- > 0;) {  // in another order than they lie
        sums.open(y.tensor.row(r));
        for (std::int64_t i = 0; i < r % 3; ++i) sums.add(x.tensor.row((r + i) % 6), static_cast<float>(1 + r % 5));
      }
      for (std::int64_t r = 0; r < count; ++r) {
        for (std::int64_t i = 0; i < r % 3; ++i) {
          parts.push_back({static_cast<std::int32_t>((r + i) % 6), static_cast<float>(1 + r % 5)});
        }
        offsets.push_back(std::ssize(parts));
      }
      device->sum_rows(sums, 9, accumulate);
      device->combine(x.tensor, offsets, parts, expected.tensor, accumulate);
      expect_same(on_host(y), on_host(expected), std::to_string(count) + " rows");
      EXPECT_GE(device->room_for(count), count);
    }
  }
  RowSums beyond;
  beyond.open(nullptr);
  beyond.rows.front().last = 1;
  EXPECT_THROW(device->sum_rows(beyond, 9), std::invalid_argument);
}

TEST_P(DeviceTest, RmsNormOfRowsAndOfHeads) {
  for (const std::int64_t width : {1, 5, 16, 48, 100}) {
    for (const std::int64_t groups : {1, 3}) {
      const std::int64_t rows = 4;
      const Numbers in = normal(rows * groups * width, 3);
      const Numbers weight = normal(width);
      const Array x = on_device(in, rows, groups * width, 2);
      const Array w = on_device(weight, 1, width);
      const Array y = blank(rows, groups * width);
      device->rms_norm(x.tensor, w.tensor, 1e-5F, y.tensor);
      const Numbers got = on_host(y);
      for (std::int64_t g = 0; g < rows * groups; ++g) {
        double squares = 0;
        for (std::int64_t c = 0; c < width; ++c) squares += std::pow(in[static_cast<std::size_t>(g * width + c)], 2);
        const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5F);
        for (std::int64_t c = 0; c < width; ++c) {
          const auto i = static_cast<std::size_t>(g * width + c);
          const double value = in[i] * factor * weight[static_cast<std::size_t>(c)];
          ASSERT_NEAR(got[i], value, 8 * std::abs(value) * std::numeric_limits<float>::epsilon() + 1e-30);
        }
      }
      device->rms_norm(x.tensor, w.tensor, 1e-5F, x.tensor);
      expect_same(on_host(x), got, "in place");
    }
  }
}

TEST_P(DeviceTest, LayerNormCentresAndScales) {
  for (const std::int64_t width : {1, 15, 64, 100}) {
    const Numbers in = normal(5 * width);
    const Numbers weight = normal(width);
    const Numbers bias = normal(width);
    const Array x = on_device(in, 5, width, 3);
    const Array w = on_device(weight, 1, width);
    const Array b = on_device(bias, 1, width);
    for (const bool biased : {false, true}) {
      const Array y = blank(5, width);
      device->layer_norm(x.tensor, w.tensor, biased ? b.tensor : Tensor{}, 1e-5F, y.tensor);
      const Numbers got = on_host(y);
      for (std::size_t r = 0; r < 5; ++r) {
        const auto row = std::span(in).subspan(r * weight.size(), weight.size());
        const double mean = std::accumulate(row.begin(), row.end(), 0.0) / static_cast<double>(width);
        double squares = 0;
        for (const float value : row) squares += (value - mean) * (value - mean);
        const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
        for (std::size_t c = 0; c < row.size(); ++c) {
          const double value = (row[c] - mean) * factor * weight[c] + (biased ? bias[c] : 0.0F);
          ASSERT_NEAR(got[r * row.size() + c], value, 2e-5) << width;
        }
      }
    }
    const Numbers apart = [&] {
      const Array y = blank(5, width);
      device->layer_norm(x.tensor, w.tensor, b.tensor, 1e-5F, y.tensor);
      return on_host(y);
    }();
    device->layer_norm(x.tensor, w.tensor, b.tensor, 1e-5F, x.tensor);
    expect_same(on_host(x), apart, "in place");
  }
}

TEST_P(DeviceTest, BiasesAndFactorsGoToEveryRow) {
  const Array x = on_device(Numbers{1, 2, 3, 4, 5, 6}, 2, 3, 2);
  const Array bias = on_device(Numbers{10, 20, 30}, 1, 3);
  device->add_bias(x.tensor, bias.tensor);
  EXPECT_EQ(on_host(x), (Numbers{11, 22, 33, 14, 25, 36}));
  device->scale(x.tensor, 0.5F);
  EXPECT_EQ(on_host(x), (Numbers{5.5F, 11, 16.5F, 7, 12.5F, 18}));
  const Array more = on_device(Numbers{1, 0, 1, 0, 1, 0}, 2, 3);
  device->add(more.tensor, 2, x.tensor);
  EXPECT_EQ(on_host(x), (Numbers{7.5F, 11, 18.5F, 7, 14.5F, 18}));
  EXPECT_THROW(device->add(bias.tensor, 1, x.tensor), std::invalid_argument);
  EXPECT_THROW(device->add_bias(x.tensor, x.tensor), std::invalid_argument);
}

TEST_P(DeviceTest, ClampKeepsNotANumber) {
  const Array x = on_device(Numbers{-3, -2, 0.5F, 2, 7, nan}, 2, 3, 1);
  device->clamp(x.tensor, 2);
  const Numbers got = on_host(x);
  EXPECT_EQ((Numbers{got.begin(), got.end() - 1}), (Numbers{-2, -2, 0.5F, 2, 2}));
  EXPECT_TRUE(std::isnan(got.back()));
}

TEST_P(DeviceTest, RotaryTurnsPairsByTheirAngle) {
  const std::int64_t head_dim = 12;
  const std::vector<std::int64_t> positions = {0, 1, 517, 131071, 3};
  const auto rows = static_cast<std::int64_t>(positions.size());
  for (const bool interleaved : {false, true}) {
    for (const std::size_t pairs : {std::size_t{6}, std::size_t{4}}) {
      Rotary rotary{{}, 1.25F, interleaved};
      for (std::size_t i = 0; i < pairs; ++i)
        rotary.inverse_frequencies.push_back(1 / std::pow(10000.0F, static_cast<float>(i) / static_cast<float>(pairs)));
      const Numbers in = normal(rows * 3 * head_dim);
      const Array x = on_device(in, rows, 3 * head_dim, 5);
      device->rotary(x.tensor, static_cast<int>(head_dim), rotary, positions);
      const Numbers got = on_host(x);
      Numbers expected = in;
      for (std::size_t r = 0; r < positions.size(); ++r) {
        for (std::size_t head = 0; head < 3; ++head) {
          for (std::size_t i = 0; i < pairs; ++i) {
            // The angle is rounded to f32 as in the reference implementations of the models.
            const float angle = static_cast<float>(positions[r]) * rotary.inverse_frequencies[i];
            const double cosine = 1.25 * std::cos(static_cast<double>(angle));
            const double sine = 1.25 * std::sin(static_cast<double>(angle));
            const std::size_t base = r * 36 + head * 12;
            const std::size_t a = base + (interleaved ? 2 * i : i);
            const std::size_t b = base + (interleaved ? 2 * i + 1 : i + pairs);
            expected[a] = static_cast<float>(in[a] * cosine - in[b] * sine);
            expected[b] = static_cast<float>(in[b] * cosine + in[a] * sine);
          }
        }
      }
      for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], expected[i], 2e-6) << "number " << i;
      // Again with other positions: nothing of the first call may stick.
      device->upload(in, x.tensor);
      device->rotary(x.tensor, static_cast<int>(head_dim), rotary, std::vector<std::int64_t>(positions.size(), 0));
      const Numbers still = on_host(x);
      for (std::size_t c = 0; c < 12; ++c) {
        if (c < 2 * pairs)
          ASSERT_NEAR(still[36 + c], 1.25F * in[36 + c], 1e-6);
        else
          ASSERT_EQ(still[36 + c], in[36 + c]);
      }
    }
  }
}

}  // namespace
}  // namespace coterie
