#include "runtime/experts/expert_parcel.hpp"

#include <array>
#include <cstring>
#include <stdexcept>

namespace coterie {
namespace {

constexpr std::uint64_t kAlign = 64;

constexpr std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

/// At the front of a parcel; the four arrays follow, each padded.
struct Header {
  std::int64_t expert = 0;
  PackedForm gate_up, down;
  std::array<std::uint64_t, 4> bytes{};  ///< of gate_up, down, their biases

  [[nodiscard]] std::uint64_t total() const {
    std::uint64_t sum = padded(sizeof(Header));
    for (const std::uint64_t b : bytes) sum += padded(b);
    return sum;
  }
};

std::span<const std::byte> bytes_of(const DeviceArray& bias) {
  const Tensor& view = bias.view;
  return {view.data, static_cast<std::size_t>(view.cols) * size_of(view.type) * (bias.memory ? 1 : 0)};
}

std::array<std::span<const std::byte>, 4> arrays_of(const ExpertWeights& weights) {
  return {weights.gate_up->bytes(), weights.down->bytes(), bytes_of(weights.gate_up_bias), bytes_of(weights.down_bias)};
}

Header header_of(const ExpertWeights& weights, std::int32_t expert) {
  Header header{expert, weights.gate_up->form(), weights.down->form()};
  const auto arrays = arrays_of(weights);
  for (std::size_t i = 0; i < arrays.size(); ++i) header.bytes[i] = arrays[i].size();
  return header;
}

Header read_header(std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < sizeof header) throw std::runtime_error("an expert's weights arrived without their header");
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}

DeviceArray bias_at(std::span<std::byte> bytes, DType type) {
  if (bytes.empty()) return {};
  const auto cols = static_cast<std::int64_t>(bytes.size() / size_of(type));
  return {DeviceMemory(bytes.data(), [](std::byte*) {}), {bytes.data(), type, 1, cols, cols}};
}

}  // namespace

std::uint64_t parcel_bytes(const ExpertWeights& weights) {
  return header_of(weights, 0).total();
}

std::span<std::byte> pack_parcel(const ExpertWeights& weights, std::int32_t expert, Device& device,
                                 std::span<std::byte> out) {
  const Header header = header_of(weights, expert);
  std::memcpy(out.data(), &header, sizeof header);
  std::uint64_t at = padded(sizeof header);
  for (const auto& array : arrays_of(weights)) {
    device.read(array, out.subspan(at, array.size()));
    at += padded(array.size());
  }
  return out.subspan(at);
}

std::vector<ExpertParcel> parcels_of(std::span<std::byte> section) {
  std::vector<ExpertParcel> parcels;
  while (!section.empty()) {
    const Header header = read_header(section);
    if (header.total() > section.size()) throw std::runtime_error("an expert's weights arrived cut off");
    parcels.push_back({static_cast<std::int32_t>(header.expert), section.first(header.total())});
    section = section.subspan(header.total());
  }
  return parcels;
}

ExpertWeights open_parcel(const ExpertParcel& parcel, const Gating& gating, Device& device) {
  const Header header = read_header(parcel.bytes);
  std::array<std::span<std::byte>, 4> arrays;
  std::uint64_t at = padded(sizeof header);
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    arrays[i] = parcel.bytes.subspan(at, header.bytes[i]);
    at += padded(header.bytes[i]);
  }
  const DType type = device.activation_type();
  return {device.adopt(header.gate_up, arrays[0]), device.adopt(header.down, arrays[1]), bias_at(arrays[2], type),
          bias_at(arrays[3], type), gating};
}

}  // namespace coterie
