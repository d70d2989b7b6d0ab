#include "comm/nccl_library.hpp"

#include <string>
#include <vector>

namespace coterie {

const SharedLibrary& nccl_library() {
  // Never unloaded: its threads may live until the process ends.
  static const SharedLibrary& library = *[] {
    std::vector<std::string> names{"libnccl.so.2"};
    if (const std::string built = COTERIE_NCCL_LIBRARY; !built.empty()) names.push_back(built);
    return new SharedLibrary(names);
  }();
  return library;
}

int nccl_version() {
  int version = 0;
  using GetVersion = int(int*);
  auto* const get_version = nccl_library().find<GetVersion>("ncclGetVersion");
  return get_version != nullptr && get_version(&version) == 0 ? version : 0;
}

}  // namespace coterie
