// NumPy's .npy files: a header with type and shape, then one array. Format: numpy.lib.format, versions 1 to 3.
#pragma once

#include "placement/files/mapped_file.hpp"
#include "placement/files/safetensors.hpp"

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace coterie {

class NpyFile {
 public:
  /// Throws InputError: no .npy file, truncated, an element type other than little-endian numbers, Fortran order.
  explicit NpyFile(const std::filesystem::path& path);

  [[nodiscard]] const Shape& shape() const noexcept { return shape_; }
  [[nodiscard]] bool is_integer() const noexcept { return kind_ != 'f'; }
  /// All elements, row-major. Throws InputError when they are not integers or one doesn't fit.
  [[nodiscard]] std::vector<std::int32_t> integers() const;
  /// Throws InputError when they are not floating-point numbers.
  [[nodiscard]] std::vector<float> floats() const;

 private:
  MappedFile file_;
  Shape shape_;
  char kind_ = 0;         ///< 'i', 'u' or 'f'
  std::size_t size_ = 0;  ///< bytes of an element
  std::span<const std::byte> data_;
};

/// True when the file begins as a .npy file does.
[[nodiscard]] bool is_npy(const std::filesystem::path& path);
/// Writes int64, row-major. Replaces `path` in one step.
void write_npy(const std::filesystem::path& path, const Shape& shape, std::span<const std::int64_t> values);

}  // namespace coterie
