// What a build without NCCL says instead.
#include "comm/nccl.hpp"

namespace coterie {

std::string nccl_trouble() {
  return "built without NCCL";
}

std::unique_ptr<Communicator> make_nccl_communicator(MpiSession&, const NcclOptions&, LowLatencyFound*) {
  throw CommError("this program was built without NCCL");
}

}  // namespace coterie
