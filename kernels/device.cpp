#include "kernels/device.hpp"

namespace coterie {

Tensor Device::allocate(std::int64_t rows, std::int64_t cols, DeviceMemory& memory) {
  memory = allocate(static_cast<std::size_t>(rows * cols) * size_of(activation_type()));
  return {memory.get(), activation_type(), rows, cols, cols};
}

}  // namespace coterie
