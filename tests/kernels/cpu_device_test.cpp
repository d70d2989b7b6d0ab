// The CPU as a device: the suite with each type of weights, on one thread and on several.
#include "tests/kernels/device_suite.hpp"

namespace coterie {
namespace {

const DeviceCase cases[] = {{"f32", {DType::f32, 1}, make_cpu_device},
                            {"f32_two_threads", {DType::f32, 2}, make_cpu_device},
                            {"bf16", {DType::bf16, 1}, make_cpu_device},
                            {"bf16_two_threads", {DType::bf16, 2}, make_cpu_device}};

INSTANTIATE_TEST_SUITE_P(Cpu, DeviceTest, testing::ValuesIn(cases),
                         [](const auto& instance) { return instance.param.name; });

INSTANTIATE_TEST_SUITE_P(Cpu, GradientDeviceTest, testing::ValuesIn(std::span(cases).first(2)),
                         [](const auto& instance) { return instance.param.name; });

TEST(CpuDevice, NeedsAThread) {
  EXPECT_THROW((void)make_cpu_device({DType::f32, 0}), std::invalid_argument);
}

}  // namespace
}  // namespace coterie
