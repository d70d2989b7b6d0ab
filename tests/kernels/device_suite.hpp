// What every device must do. A kind of device joins by instantiating DeviceTest with its cases.
#pragma once

#include "kernels/device.hpp"

#include <gtest/gtest.h>

#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace coterie {

struct DeviceCase {
  std::string name;
  DeviceOptions options;
  std::function<std::unique_ptr<Device>(const DeviceOptions&)> make;
};
std::ostream& operator<<(std::ostream& out, const DeviceCase& device_case);

using Numbers = std::vector<float>;

/// A tensor and what owns it.
struct Array {
  DeviceMemory memory;
  Tensor tensor;
};

class DeviceTest : public testing::TestWithParam<DeviceCase> {
 public:
  DeviceTest() : device(GetParam().make(GetParam().options)) {}

  /// From [least, largest].
  std::int64_t uniform(std::int64_t least, std::int64_t largest) {
    return std::uniform_int_distribution<std::int64_t>(least, largest)(random);
  }
  /// Numbers from the normal distribution.
  Numbers normal(std::integral auto count, float deviation = 1) {
    return drawn(static_cast<std::size_t>(count), deviation);
  }
  /// On the device, in rows that are `gap` elements further apart than they are wide.
  Array on_device(std::span<const float> numbers, std::int64_t rows, std::int64_t cols, std::int64_t gap = 0);
  /// Uninitialised; set to NaN, so that what a call leaves unwritten shows.
  Array blank(std::int64_t rows, std::int64_t cols, std::int64_t gap = 0);
  [[nodiscard]] Numbers on_host(const Array& array);
  /// (rows, cols); panels may be asked for in any order.
  std::unique_ptr<PackedMatrix> packed(const Numbers& weight, std::int64_t rows, std::int64_t cols);
  /// The numbers as GEMMs see them: rounded when weights are bf16.
  [[nodiscard]] Numbers as_weights(Numbers numbers) const;

  Numbers drawn(std::size_t count, float deviation);

  const unsigned seed = std::random_device{}();
  std::mt19937 random{seed};
  std::unique_ptr<Device> device;
  testing::ScopedTrace trace{__FILE__, __LINE__, "seed " + std::to_string(seed)};
};

/// For devices with f32 weights: what training needs.
class GradientDeviceTest : public DeviceTest {};

/// in (rows, cols) * weight^T (outputs, cols) in double precision, each with the bound that rounding errors keep to:
/// eps * sum |in| |weight|, times a factor that grows with the square root of the terms.
struct Bounded {
  double value = 0;
  double bound = 0;
};
std::vector<Bounded> product(std::span<const float> in, std::span<const float> weight, std::int64_t rows,
                             std::int64_t cols, std::int64_t outputs);
/// Fails with the first number that is out of its bound.
void expect_within(const Numbers& actual, const std::vector<Bounded>& expected);
/// The same bits.
void expect_same(std::span<const float> actual, std::span<const float> expected, const std::string& what);
/// Rows, their router, and all experts.
struct RoutedCase {
  Tensor in;
  const PackedMatrix& router;
  RouterOptions options;
  std::span<const ExpertWeights> experts;
  float factor = 1;
};
/// group() and add_experts() give what route(), experts() and combine() do, to the bit.
void expect_groups(Device& device, const RoutedCase& c);
/// Rounded to the nearest bf16.
[[nodiscard]] float rounded_to_bf16(float value);

}  // namespace coterie
