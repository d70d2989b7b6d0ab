// A library that is loaded where a machine has it, and done without where not.
#pragma once

#include <memory>
#include <string>
#include <vector>

namespace coterie {

class SharedLibrary {
 public:
  /// None.
  SharedLibrary() = default;
  /// The first of `names` (paths, or names that the loader looks for) that can be loaded.
  explicit SharedLibrary(const std::vector<std::string>& names);

  [[nodiscard]] explicit operator bool() const noexcept { return handle_ != nullptr; }
  /// The file that was loaded; empty without one.
  [[nodiscard]] std::string path() const;
  /// Why none was loaded; empty otherwise.
  [[nodiscard]] const std::string& error() const noexcept { return error_; }
  /// A function of the library, or null.
  template <class Function>
  [[nodiscard]] Function* find(const char* name) const noexcept {
    return reinterpret_cast<Function*>(symbol(name));
  }

 private:
  struct Close {
    void operator()(void* handle) const noexcept;
  };
  [[nodiscard]] void* symbol(const char* name) const noexcept;

  std::unique_ptr<void, Close> handle_;
  std::string error_;
};

}  // namespace coterie
