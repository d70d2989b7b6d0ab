#include "comm/nccl.hpp"
#include "kernels/cuda_devices.hpp"
#include "tests/mpi_main.hpp"
#include "tests/runtime/test_job.hpp"

#include <cstdlib>

namespace coterie {

std::unique_ptr<Device> make_test_device(const JobOptions& options) {
  return make_cuda_device({options.dtype, 1, options.dtype, options.graphs}, 0);
}

std::unique_ptr<Communicator> make_test_transport() {
  const bool nccl = on_all_ranks(test_device_is_here() && nccl_trouble().empty());
  if (!nccl) return make_mpi_communicator(test_session(), {});
  const LowLatency low_latency = std::getenv("COTERIE_TEST_LOW_LATENCY") ? LowLatency::on : LowLatency::off;
  return make_nccl_communicator(test_session(), {{}, 0, true, low_latency});
}

bool test_device_is_here() {
  return !cuda_devices().empty();
}

}  // namespace coterie
