// A checkpoint folder of the hub: one or many safetensors files, found by tensor name.
#pragma once

#include "placement/files/safetensors.hpp"
#include "runtime/checkpoint/model_spec.hpp"
#include "runtime/checkpoint/quantization.hpp"
#include "runtime/checkpoint/stored_tensor.hpp"

#include <filesystem>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

namespace coterie {

class Checkpoint {
 public:
  /// Opens model.safetensors, or the files that model.safetensors.index.json names. Throws InputError for what is
  /// missing or malformed.
  explicit Checkpoint(const std::filesystem::path& directory);

  /// Throws InputError unless the tensor is there, of the shape that `ref` says: F32, F16 or BF16, or quantised as the
  /// config says, with its scales. MXFP4 is stored as NAME_blocks and NAME_scales instead of NAME.
  void check(const WeightRef& ref) const { (void)arrays(ref); }
  /// Whether every number of the tensor is a bf16's; reads the scales of an FP8 tensor.
  [[nodiscard]] bool fits_bf16(const WeightRef& ref) const { return StoredTensor(arrays(ref)).fits_bf16(); }
  /// By name.
  [[nodiscard]] const std::map<std::string, StoredArray>& tensors() const noexcept { return tensors_; }
  /// Of all tensors, as they are stored.
  [[nodiscard]] std::int64_t bytes() const;
  /// The types that tensors are stored as, "BF16, U8".
  [[nodiscard]] std::string types() const;
  [[nodiscard]] const Quantization& quantization() const noexcept { return quantization_; }
  /// The rows of the references, one below the other. The checkpoint must outlive the source.
  [[nodiscard]] WeightSource source(const StackedRef& refs) const;
  [[nodiscard]] WeightSource source(const WeightRef& ref) const { return source(StackedRef{ref}); }

  /// Changes when any name, type, shape or place of a tensor does: what ranks compare before they load.
  [[nodiscard]] std::string digest() const;

 private:
  /// Throws InputError as check does.
  [[nodiscard]] StoredArrays arrays(const WeightRef& ref) const;
  [[nodiscard]] StoredArrays fp8(const WeightRef& ref) const;
  [[nodiscard]] StoredArrays mxfp4(const WeightRef& ref) const;
  /// The array of that name; throws InputError unless it is there, of that shape and of one of the types.
  [[nodiscard]] const StoredArray& find(const std::string& name, const Shape& shape,
                                        std::initializer_list<ElementType> types) const;
  void add_all_of(const std::filesystem::path& path);
  void add_indexed(const std::filesystem::path& directory, const std::filesystem::path& index);

  std::filesystem::path directory_;
  Quantization quantization_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, StoredArray> tensors_;
};

}  // namespace coterie
