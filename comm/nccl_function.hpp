// How a function of NCCL is handed on to the library that is loaded at run time.
#pragma once

#include "comm/communicator.hpp"
#include "comm/nccl_library.hpp"

#include <string>

namespace coterie {

/// Throws CommError if the library lacks it.
template <class Function>
Function* nccl_function(const char* name) {
  auto* found = nccl_library().find<Function>(name);
  if (found == nullptr) {
    const std::string why = nccl_library().error();
    throw CommError(std::string("NCCL: ") + name + ": " + (why.empty() ? "the library lacks it" : why));
  }
  return found;
}

}  // namespace coterie

/// `call`: the library's function of the same name.
#define COTERIE_NCCL(name) static const auto call = coterie::nccl_function<decltype(name)>(#name)
