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

std::span<const std::byte> bytes_of(const DeviceArray& bias) {
  const Tensor& view = bias.view;
  return {view.data, static_cast<std::size_t>(view.cols) * size_of(view.type) * (bias.memory ? 1 : 0)};
}

std::array<std::span<const std::byte>, 4> arrays_of(const ExpertWeights& weights) {
  return {weights.gate_up->bytes(), weights.down->bytes(), bytes_of(weights.gate_up_bias), bytes_of(weights.down_bias)};
}

ExpertForm form_of(const ExpertWeights& weights, std::int32_t expert) {
  ExpertForm form{expert, weights.gate_up->form(), weights.down->form()};
  const auto arrays = arrays_of(weights);
  for (std::size_t i = 0; i < arrays.size(); ++i) form.bytes[i] = arrays[i].size();
  return form;
}

DeviceArray bias_at(std::span<std::byte> bytes, DType type) {
  if (bytes.empty()) return {};
  const auto cols = static_cast<std::int64_t>(bytes.size() / size_of(type));
  return {DeviceMemory(bytes.data(), [](std::byte*) {}), {bytes.data(), type, 1, cols, cols}};
}

}  // namespace

std::uint64_t ExpertForm::total() const noexcept {
  std::uint64_t sum = 0;
  for (const std::uint64_t b : bytes) sum += padded(b);
  return sum;
}

std::uint64_t parcel_bytes(const ExpertWeights& weights) {
  return form_of(weights, 0).total();
}

void pack_parcel(const ExpertWeights& weights, std::int32_t expert, Device& device, ParcelRoom& room) {
  const ExpertForm form = form_of(weights, expert);
  std::memcpy(room.forms.data(), &form, sizeof form);
  room.forms = room.forms.subspan(sizeof form);
  for (const auto& array : arrays_of(weights)) {
    device.copy(array, room.weights.span().first(array.size()));
    room.weights = room.weights.subspan(padded(array.size()));
  }
}

std::vector<ExpertParcel> parcels_of(ParcelRoom came) {
  std::vector<ExpertParcel> parcels;
  while (came.forms.size() >= sizeof(ExpertForm)) {
    ExpertForm form;
    std::memcpy(&form, came.forms.data(), sizeof form);
    if (form.total() > came.weights.size()) throw std::runtime_error("an expert's weights arrived cut off");
    parcels.push_back({form, came.weights.subspan(0, form.total())});
    came = {came.forms.subspan(sizeof form), came.weights.subspan(form.total())};
  }
  return parcels;
}

ExpertWeights open_parcel(const ExpertParcel& parcel, const Gating& gating, Device& device) {
  std::array<std::span<std::byte>, 4> arrays;
  std::uint64_t at = 0;
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    arrays[i] = parcel.bytes.span().subspan(at, parcel.form.bytes[i]);
    at += padded(parcel.form.bytes[i]);
  }
  const DType type = device.activation_type();
  return {device.adopt(parcel.form.gate_up, arrays[0]), device.adopt(parcel.form.down, arrays[1]),
          bias_at(arrays[2], type), bias_at(arrays[3], type), gating};
}

}  // namespace coterie
