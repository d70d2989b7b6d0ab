// Reading Python pickles as data: nothing is imported, nothing is called. What Python would make by calling something
// stays written down as that call. Format: the opcodes of pickle protocols 2 to 5, without buffers out of band.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace coterie {

struct Pickled;
using PickledItems = std::vector<const Pickled*>;

struct PickledTuple {
  PickledItems items;
};
struct PickledList {
  PickledItems items;
};
struct PickledDict {
  std::vector<std::pair<const Pickled*, const Pickled*>> items;
};
/// A name that Python would import: "torch._utils._rebuild_tensor_v2".
struct PickledGlobal {
  std::string name;
};
/// What Python would make by calling `callee`.
struct PickledCall {
  const Pickled* callee = nullptr;
  const Pickled* arguments = nullptr;
};
/// What stands outside the pickle; torch.save names storages this way.
struct PickledReference {
  const Pickled* id = nullptr;
};

/// A value; std::monostate is None. Lives as long as its document.
struct Pickled {
  std::variant<std::monostate, bool, std::int64_t, double, std::string, PickledTuple, PickledList, PickledDict,
               PickledGlobal, PickledCall, PickledReference>
      value;
};

class PickleDocument {
 public:
  /// Throws InputError that names `where`: truncated, an unknown opcode, a stack that runs empty, an integer beyond 64
  /// bits.
  PickleDocument(std::span<const std::byte> bytes, const std::string& where);

  [[nodiscard]] const Pickled& root() const noexcept { return *root_; }

 private:
  friend class PickleMachine;
  std::vector<std::unique_ptr<Pickled>> values_;
  const Pickled* root_ = nullptr;
};

}  // namespace coterie
