#include "comm/shared_library.hpp"

#include <dlfcn.h>
#include <link.h>

namespace coterie {

SharedLibrary::SharedLibrary(const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    handle_.reset(::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL));
    if (handle_) {
      error_.clear();
      return;
    }
    if (const char* why = ::dlerror(); why != nullptr) error_ += (error_.empty() ? "" : "; ") + std::string(why);
  }
}

std::string SharedLibrary::path() const {
  link_map* map = nullptr;
  if (!handle_ || ::dlinfo(handle_.get(), RTLD_DI_LINKMAP, &map) != 0 || map == nullptr) return "";
  return map->l_name;
}

void* SharedLibrary::symbol(const char* name) const noexcept {
  return handle_ ? ::dlsym(handle_.get(), name) : nullptr;
}

void SharedLibrary::Close::operator()(void* handle) const noexcept {
  ::dlclose(handle);
}

}  // namespace coterie
