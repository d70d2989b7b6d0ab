#include "tests/kernels/device_suite.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

namespace coterie {

std::ostream& operator<<(std::ostream& out, const DeviceCase& device_case) {
  return out << device_case.name;
}

Numbers DeviceTest::drawn(std::size_t count, float deviation) {
  std::normal_distribution<float> distribution(0, deviation);
  Numbers numbers(count);
  for (float& x : numbers) x = distribution(random);
  return numbers;
}

Array DeviceTest::on_device(std::span<const float> numbers, std::int64_t rows, std::int64_t cols, std::int64_t gap) {
  Array array = blank(rows, cols, gap);
  device->upload(numbers, array.tensor);
  return array;
}

Array DeviceTest::blank(std::int64_t rows, std::int64_t cols, std::int64_t gap) {
  Array array;
  const Tensor wide = device->allocate(rows, cols + gap, array.memory);
  const Numbers nan(static_cast<std::size_t>(rows * (cols + gap)), std::numeric_limits<float>::quiet_NaN());
  device->upload(nan, wide);
  array.tensor = wide.col_range(0, cols);
  return array;
}

Numbers DeviceTest::on_host(const Array& array) {
  Numbers numbers(static_cast<std::size_t>(array.tensor.rows * array.tensor.cols));
  device->download(array.tensor, numbers);
  return numbers;
}

std::unique_ptr<PackedMatrix> DeviceTest::packed(const Numbers& weight, std::int64_t rows, std::int64_t cols) {
  return device->pack({rows, cols, [&](std::int64_t first, std::int64_t count, float* out) {
                         std::memcpy(out, weight.data() + first * cols, static_cast<std::size_t>(count * cols) * 4);
                       }});
}

Numbers DeviceTest::as_weights(Numbers numbers) const {
  if (GetParam().options.weights == DType::bf16) {
    for (float& x : numbers) x = rounded_to_bf16(x);
  }
  return numbers;
}

float rounded_to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto below = bits & 0xffff0000U;
  const auto rest = bits & 0xffffU;
  const bool up = rest > 0x8000U || (rest == 0x8000U && (below & 0x10000U) != 0);
  return std::bit_cast<float>(up ? below + 0x10000U : below);
}

std::vector<Bounded> product(std::span<const float> in, std::span<const float> weight, std::int64_t rows,
                             std::int64_t cols, std::int64_t outputs) {
  constexpr double epsilon = std::numeric_limits<float>::epsilon();
  std::vector<Bounded> out(static_cast<std::size_t>(rows * outputs));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t o = 0; o < outputs; ++o) {
      Bounded& y = out[static_cast<std::size_t>(r * outputs + o)];
      for (std::int64_t c = 0; c < cols; ++c) {
        const double term = static_cast<double>(in[static_cast<std::size_t>(r * cols + c)]) *
                            weight[static_cast<std::size_t>(o * cols + c)];
        y.value += term;
        y.bound += std::abs(term);
      }
      y.bound *= epsilon * (2 + std::sqrt(static_cast<double>(cols)));
    }
  }
  return out;
}

void expect_within(const Numbers& actual, const std::vector<Bounded>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_LE(std::abs(actual[i] - expected[i].value), expected[i].bound)
        << "number " << i << " is " << actual[i] << ", not " << expected[i].value;
  }
}

void expect_same(std::span<const float> actual, std::span<const float> expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(actual[i]), std::bit_cast<std::uint32_t>(expected[i]))
        << what << ": number " << i << " is " << actual[i] << ", then " << expected[i];
  }
}

}  // namespace coterie
