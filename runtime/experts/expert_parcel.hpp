// An expert's weights as they travel: packed as the device multiplies with them, so that the receiver does so where
// they lie.
#pragma once

#include "comm/message.hpp"
#include "kernels/device.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// Which expert travels, and how it lies in the section of weights: its two matrices and their biases, each padded to
/// 64 bytes.
struct ExpertForm {
  std::int64_t expert = 0;
  PackedForm gate_up, down;
  std::array<std::uint64_t, 4> bytes{};  ///< of gate_up, down, their biases

  [[nodiscard]] std::uint64_t total() const noexcept;
};

/// Bytes of one expert in a section of weights; a multiple of 64.
[[nodiscard]] std::uint64_t parcel_bytes(const ExpertWeights& weights);

/// The sections of a message for experts, or what is left of them.
struct ParcelRoom {
  std::span<std::byte> forms;  ///< sizeof(ExpertForm) for each expert
  DeviceBytes weights;         ///< parcel_bytes for each
};
/// Writes one expert to the front of the room, and leaves what is behind it.
void pack_parcel(const ExpertWeights& weights, std::int32_t expert, Device& device, ParcelRoom& room);

struct ExpertParcel {
  ExpertForm form;
  DeviceBytes bytes;
};

/// The parcels of a message, one after the other. Throws std::runtime_error when it ends within one.
[[nodiscard]] std::vector<ExpertParcel> parcels_of(ParcelRoom came);
/// The weights as a view of the parcel's bytes, which lie on a boundary of 64 bytes and outlive it. Throws
/// std::invalid_argument when they contradict themselves.
[[nodiscard]] ExpertWeights open_parcel(const ExpertParcel& parcel, const Gating& gating, Device& device);

}  // namespace coterie
