// A checkpoint folder of the hub: one or many safetensors files, memory-mapped, found by tensor name.
#pragma once

#include "placement/safetensors.hpp"
#include "runtime/model_spec.hpp"

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace coterie {

class Checkpoint {
 public:
  /// Opens model.safetensors, or the files that model.safetensors.index.json names. Throws InputError for what is
  /// missing or malformed.
  explicit Checkpoint(const std::filesystem::path& directory);

  /// Throws InputError unless the tensor is there, of the shape that `ref` says, and F32, F16 or BF16.
  void check(const WeightRef& ref) const;
  /// The rows of the references, one below the other. Pages are given back to the system as soon as they are read.
  /// The checkpoint must outlive the source.
  [[nodiscard]] WeightSource source(const StackedRef& refs) const;
  [[nodiscard]] WeightSource source(const WeightRef& ref) const { return source(StackedRef{ref}); }

  /// Changes when any name, type, shape or place of a tensor does: what ranks compare before they load.
  [[nodiscard]] std::string digest() const;

 private:
  struct Entry {
    const SafetensorsFile* file = nullptr;
    const TensorView* tensor = nullptr;
  };
  [[nodiscard]] const Entry& find(const WeightRef& ref) const;
  void add_all_of(const std::filesystem::path& path);
  void add_indexed(const std::filesystem::path& directory, const std::filesystem::path& index);

  std::filesystem::path directory_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Entry> tensors_;
};

/// Values as f32. Supports F32, F16 and BF16.
void expand(ElementType type, std::span<const std::byte> bytes, float* out);

}  // namespace coterie
