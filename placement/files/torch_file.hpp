// Files that torch.save wrote: a zip archive of a pickle and the raw storages. Read as data; no code of the file runs.
#pragma once

#include "placement/files/pickle.hpp"
#include "placement/files/safetensors.hpp"
#include "placement/files/zip_file.hpp"

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

/// An array of integers, row-major.
struct IntegerArray {
  Shape shape;
  std::vector<std::int32_t> values;
};

/// An array of floating-point numbers, row-major.
struct FloatArray {
  Shape shape;
  std::vector<float> values;
};

class TorchFile {
 public:
  /// Throws InputError when it is not such a file.
  explicit TorchFile(const std::filesystem::path& path);

  [[nodiscard]] const Pickled& root() const noexcept { return pickle_.root(); }
  /// The tensor that `value` describes; `field` names it in messages. Throws InputError when it is no tensor of
  /// integers, reaches outside its storage, or holds a number beyond 32 bits.
  [[nodiscard]] IntegerArray integers(const Pickled& value, const std::string& field) const;
  /// The same for a tensor of 64, 32 or 16 bit floating-point numbers.
  [[nodiscard]] FloatArray floats(const Pickled& value, const std::string& field) const;
  [[nodiscard]] std::string where() const { return zip_.path().string(); }

 private:
  ZipFile zip_;
  std::string folder_;  ///< of the archive, with a slash behind it
  PickleDocument pickle_;
};

/// The member of a dictionary; nullptr when `value` is no dictionary or has no such key.
[[nodiscard]] const Pickled* find(const Pickled& value, const std::string& key);
/// The items of a list or tuple; nothing for anything else.
[[nodiscard]] std::optional<std::span<const Pickled* const>> items(const Pickled& value);

}  // namespace coterie
