#include "kernels/cuda/cublas_functions.hpp"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace coterie {
namespace {

void* load() {
  std::string why;
  for (const char* name : {"libcublas.so.13", "libcublas.so.12", COTERIE_CUBLAS_LIBRARY}) {
    if (void* library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL); library != nullptr) return library;  // never unloaded
    if (const char* error = ::dlerror(); error != nullptr) why += std::string(why.empty() ? "" : "; ") + error;
  }
  throw std::runtime_error("cuBLAS: " + why);
}

template <class Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function == nullptr) {
    throw std::runtime_error(std::string("cuBLAS: the library has no ") + name + ", expected version 12.5 or later");
  }
}

}  // namespace

const CublasFunctions& cublas_functions() {
  static const CublasFunctions functions = [] {
    void* library = load();
    CublasFunctions f;
    find(library, "cublasCreate_v2", f.create);
    find(library, "cublasDestroy_v2", f.destroy);
    find(library, "cublasSetStream_v2", f.set_stream);
    find(library, "cublasSetWorkspace_v2", f.set_workspace);
    find(library, "cublasGetStatusString", f.text);
    find(library, "cublasGemmGroupedBatchedEx", f.multiply_groups);
    return f;
  }();
  return functions;
}

}  // namespace coterie
