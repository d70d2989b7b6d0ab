// What a build without CUDA says instead.
#include "kernels/cuda_devices.hpp"

#include <stdexcept>

namespace coterie {

std::vector<std::string> cuda_devices() {
  return {};
}

std::unique_ptr<Device> make_cuda_device(const DeviceOptions&, int, ExpertKernels) {
  throw std::runtime_error("this program was built without CUDA");
}

}  // namespace coterie
