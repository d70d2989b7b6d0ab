// Owners of what C libraries make.
#pragma once

namespace coterie {

/// For std::unique_ptr.
template <auto Function>
struct DestroyedBy {
  template <class T>
  void operator()(T* handle) const noexcept {
    (void)Function(handle);
  }
};

}  // namespace coterie
