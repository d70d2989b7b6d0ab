// A zip archive of stored (not compressed) entries, as torch.save writes it. Format: PKWARE's APPNOTE 6.3, zip64 too.
#pragma once

#include "placement/files/mapped_file.hpp"

#include <cstddef>
#include <filesystem>
#include <map>
#include <span>
#include <string>

namespace coterie {

class ZipFile {
 public:
  /// Throws InputError: no zip archive, truncated, entries out of range or compressed.
  explicit ZipFile(const std::filesystem::path& path);

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return file_.path(); }
  /// Name -> bytes, views into the mapped file.
  [[nodiscard]] const std::map<std::string, std::span<const std::byte>>& entries() const noexcept { return entries_; }

 private:
  MappedFile file_;
  std::map<std::string, std::span<const std::byte>> entries_;
};

/// True when the file begins as a zip archive does.
[[nodiscard]] bool is_zip(const std::filesystem::path& path);

}  // namespace coterie
