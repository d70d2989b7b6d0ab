#include "tests/mpi_main.hpp"
#include "tests/runtime/test_job.hpp"

namespace coterie {

std::unique_ptr<Device> make_test_device(const JobOptions& options) {
  return make_cpu_device({options.dtype, options.threads});
}

std::unique_ptr<Communicator> make_test_transport() {
  return make_mpi_communicator(test_session(), {});
}

bool test_device_is_here() {
  return true;
}

}  // namespace coterie
