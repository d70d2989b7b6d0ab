// An expert's weights as they travel: packed as the device multiplies with them, so that the receiver does so where
// they lie.
#pragma once

#include "kernels/device.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// Bytes of one expert in a section of weights; a multiple of 64.
[[nodiscard]] std::uint64_t parcel_bytes(const ExpertWeights& weights);
/// Writes parcel_bytes(weights) bytes and returns the room behind them.
std::span<std::byte> pack_parcel(const ExpertWeights& weights, std::int32_t expert, Device& device,
                                 std::span<std::byte> out);

struct ExpertParcel {
  std::int32_t expert = 0;
  std::span<std::byte> bytes;
};

/// The parcels of a section, one after the other. Throws std::runtime_error when it ends within one.
[[nodiscard]] std::vector<ExpertParcel> parcels_of(std::span<std::byte> section);
/// The weights as a view of the parcel's bytes, which lie on a boundary of 64 bytes and outlive it. Throws
/// std::invalid_argument when they contradict themselves.
[[nodiscard]] ExpertWeights open_parcel(const ExpertParcel& parcel, const Gating& gating, Device& device);

}  // namespace coterie
