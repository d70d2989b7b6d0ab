#include "kernels/cuda_devices.hpp"
#include "tests/runtime/test_job.hpp"

namespace coterie {

std::unique_ptr<Device> make_test_device(const JobOptions& options) {
  return make_cuda_device({options.dtype, 1, options.dtype}, 0);
}

bool test_device_is_here() {
  return !cuda_devices().empty();
}

}  // namespace coterie
