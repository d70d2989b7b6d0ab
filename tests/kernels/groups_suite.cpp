// Rows grouped by expert on the device, beside what its other operations make of the host's lists.
#include "tests/kernels/device_suite.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <tuple>

namespace coterie {
namespace {

template <class T>
std::vector<T> copied(Device& device, const T* from, std::int64_t count) {
  const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
  const DeviceMemory to = device.allocate_shared(std::max<std::size_t>(bytes, 1));
  device.copy(std::as_bytes(std::span(from, static_cast<std::size_t>(count))), {to.get(), bytes});
  device.wait();
  std::vector<T> out(static_cast<std::size_t>(count));
  if (count > 0) std::memcpy(out.data(), to.get(), bytes);
  return out;
}

}  // namespace

void expect_groups(Device& device, const RoutedCase& c) {
  const Routing routing = device.route(c.in, c.router, c.options, {});
  const RowGroups groups = device.group(c.in, c.router, c.options, {});
  const auto experts = static_cast<int>(c.experts.size());
  const auto k = static_cast<std::size_t>(c.options.top_k);
  ASSERT_EQ(groups.rows, c.in.rows);
  ASSERT_EQ(groups.top_k, c.options.top_k);
  ASSERT_EQ(groups.experts, experts);
  // The rows of each expert, in their order.
  std::vector<std::int32_t> first, row, place(routing.experts.size(), -1);
  for (int e = 0; e < experts; ++e) {
    first.push_back(static_cast<std::int32_t>(row.size()));
    for (std::size_t i = 0; i < place.size(); ++i) {
      if (routing.experts[i] != e) continue;
      place[i] = static_cast<std::int32_t>(row.size());
      row.push_back(static_cast<std::int32_t>(i / k));
    }
  }
  first.push_back(static_cast<std::int32_t>(row.size()));
  EXPECT_EQ(copied(device, groups.first, experts + 1), first);
  EXPECT_EQ(copied(device, groups.row, first.back()), row);
  const auto choices = static_cast<std::int64_t>(place.size());
  EXPECT_EQ(copied(device, groups.place, choices), place);
  expect_same(copied(device, groups.weight, choices), routing.weights, "weights");

  const std::int64_t pairs = first.back();
  const std::int64_t cols = c.in.cols;
  std::vector<DeviceMemory> memory(5);
  const auto blank = [&](std::int64_t rows, std::size_t i) {
    const Tensor out = device.allocate(rows, cols, memory[i]);
    device.upload(Numbers(static_cast<std::size_t>(rows * cols), std::numeric_limits<float>::quiet_NaN()), out);
    return out;
  };
  const Tensor inputs = blank(pairs, 0), outputs = blank(pairs, 1), sums = blank(c.in.rows, 2);
  std::vector<ExpertRows> rows;
  std::vector<const ExpertWeights*> pointers;
  for (int e = 0; e < experts; ++e) {
    const auto at = static_cast<std::size_t>(e);
    rows.push_back({&c.experts[at], first[at], first[at + 1] - first[at]});
    pointers.push_back(&c.experts[at]);
  }
  std::vector<std::int64_t> offsets{0};
  std::vector<Contribution> contributions;
  for (std::size_t i = 0; i < place.size(); ++i) {
    if (place[i] >= 0) contributions.push_back({place[i], routing.weights[i] * c.factor});
    if ((i + 1) % k == 0) offsets.push_back(static_cast<std::int64_t>(contributions.size()));
  }
  device.gather(c.in, row, inputs);
  device.experts(inputs, rows, outputs);
  device.combine(outputs, offsets, contributions, sums);
  const auto set = device.expert_set(pointers);
  const Tensor x = device.allocate(c.in.rows, cols, memory[3]), expected = device.allocate(c.in.rows, cols, memory[4]);
  Numbers before(static_cast<std::size_t>(c.in.rows * cols), 0.75F);
  device.upload(before, x);
  device.upload(before, expected);
  device.add(sums, 1, expected);
  const RowGroups again = device.group(c.in, c.router, c.options, {});
  device.add_experts(c.in, again, *set, c.factor, x);
  Numbers actual(before.size());
  device.download(x, actual);
  device.download(expected, before);
  expect_same(actual, before, "x");
}

namespace {

TEST_P(DeviceTest, GroupsRowsByExpert) {
  const std::int64_t hidden = 24, width = 8;
  for (const auto& [rows, count, options] : {std::tuple<std::int64_t, int, RouterOptions>{0, 4, {.top_k = 2}},
                                             {1, 5, {.top_k = 5}},
                                             {150, 8, {.top_k = 2, .normalise = true}},
                                             {37, 300, {.top_k = 8, .scoring = Scoring::sigmoid}},
                                             {640, 7, {.top_k = 3, .top_p = 0.5F, .null_experts = 2}}}) {
    SCOPED_TRACE(std::to_string(rows) + " rows");
    const Array in = on_device(normal(rows * hidden), rows, hidden, 8);
    const auto router = packed(normal((count + options.null_experts) * hidden), count + options.null_experts, hidden);
    const Numbers bias = normal(hidden);
    std::vector<ExpertWeights> experts;
    for (int e = 0; e < count; ++e) {
      experts.push_back(
          {packed(normal(2 * width * hidden), 2 * width, hidden), packed(normal(hidden * width), hidden, width)});
      if (count > 100) continue;  // without biases
      Array vector = on_device(bias, 1, hidden);
      experts.back().down_bias = {std::move(vector.memory), vector.tensor};
    }
    expect_groups(*device, {in.tensor, *router, options, experts, 0.5F});
  }
}

TEST_P(DeviceTest, GroupsFitTheirExperts) {
  const Array in = on_device(normal(8), 2, 4);
  const auto router = packed(normal(12), 3, 4);
  std::vector<ExpertWeights> experts;
  for (int e = 0; e < 2; ++e) experts.push_back({packed(normal(16), 4, 4), packed(normal(8), 4, 2)});
  const RowGroups groups = device->group(in.tensor, *router, {}, {});
  const auto set = device->expert_set({&experts[0], &experts[1]});
  EXPECT_THROW(device->add_experts(in.tensor, groups, *set, 1, in.tensor), std::invalid_argument);
  EXPECT_THROW((void)device->group(in.tensor, *router, {.top_k = 4}, {}), std::invalid_argument);
}

}  // namespace
}  // namespace coterie
