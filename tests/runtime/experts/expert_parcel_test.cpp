#include "runtime/experts/expert_parcel.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <stdexcept>

namespace coterie {
namespace {

constexpr std::int64_t kHidden = 24, kWidth = 10;

std::vector<float> numbers(std::int64_t count, float first) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = first + 0.01F * static_cast<float>(i % 37);
  return out;
}

std::unique_ptr<PackedMatrix> matrix(Device& device, std::int64_t rows, std::int64_t cols, float first) {
  const auto values = numbers(rows * cols, first);
  return device.pack({rows, cols, [&](std::int64_t from, std::int64_t count, float* out) {
                        std::copy_n(values.begin() + from * cols, count * cols, out);
                      }});
}

DeviceArray bias(Device& device, std::int64_t cols, float first) {
  DeviceArray out;
  out.view = device.allocate(1, cols, out.memory);
  device.upload(numbers(cols, first), out.view);
  return out;
}

ExpertWeights expert(Device& device, bool biased, float first) {
  ExpertWeights out{matrix(device, 2 * kWidth, kHidden, first), matrix(device, kHidden, kWidth, -first)};
  if (!biased) return out;
  out.gate_up_bias = bias(device, 2 * kWidth, first);
  out.down_bias = bias(device, kHidden, first);
  out.gating = {1.7F, 1, 7};
  return out;
}

std::vector<float> through(Device& device, const ExpertWeights& weights) {
  DeviceMemory in_memory, out_memory;
  const Tensor in = device.allocate(3, kHidden, in_memory), out = device.allocate(3, kHidden, out_memory);
  device.upload(numbers(3 * kHidden, 0.1F), in);
  const std::vector<ExpertRows> all{{&weights, 0, 3}};
  device.experts(in, all, out);
  std::vector<float> result(3 * kHidden);
  device.download(out, result);
  return result;
}

TEST(ExpertParcel, WhatArrivesComputesTheSameBits) {
  for (const DType type : {DType::f32, DType::bf16}) {
    const auto device = make_cpu_device({type, 1});
    const ExpertWeights first = expert(*device, false, 0.2F), second = expert(*device, true, -0.3F);
    const std::uint64_t bytes = parcel_bytes(first) + parcel_bytes(second);
    EXPECT_EQ(bytes % 64, 0U);
    const DeviceMemory memory = device->allocate(bytes);
    std::vector<std::byte> forms(2 * sizeof(ExpertForm));
    const ParcelRoom room{forms, {memory.get(), bytes}};
    ParcelRoom left = room;
    pack_parcel(first, 5, *device, left);
    pack_parcel(second, 9, *device, left);
    EXPECT_TRUE(left.forms.empty() && left.weights.empty());
    const auto parcels = parcels_of(room);
    ASSERT_EQ(parcels.size(), 2U);
    EXPECT_EQ(parcels[0].form.expert, 5);
    EXPECT_EQ(parcels[1].form.expert, 9);
    EXPECT_EQ(through(*device, open_parcel(parcels[0], {}, *device)), through(*device, first));
    EXPECT_EQ(through(*device, open_parcel(parcels[1], second.gating, *device)), through(*device, second));
    EXPECT_THROW((void)parcels_of({room.forms, room.weights.subspan(0, bytes - 64)}), std::runtime_error);
  }
}

TEST(ExpertParcel, ASectionWithoutExperts) {
  EXPECT_TRUE(parcels_of({}).empty());
}

}  // namespace
}  // namespace coterie
