#include "kernels/device.hpp"

#include <algorithm>

namespace coterie {

Tensor Device::allocate(std::int64_t rows, std::int64_t cols, DeviceMemory& memory) {
  memory = allocate(static_cast<std::size_t>(rows * cols) * size_of(activation_type()));
  return {memory.get(), activation_type(), rows, cols, cols};
}

std::unique_ptr<ExpertSet> Device::expert_set(std::vector<const ExpertWeights*> experts) {
  return std::make_unique<ExpertSet>(std::move(experts));
}

void Device::copy(std::span<const std::byte> from, std::span<std::byte> to) {
  std::ranges::copy(from, to.begin());
}

}  // namespace coterie
