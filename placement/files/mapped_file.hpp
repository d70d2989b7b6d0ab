// A file's bytes, mapped into memory read-only.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace coterie {

class MappedFile {
 public:
  /// Throws InputError when the file can't be opened or is no regular file. An empty file gives no bytes.
  explicit MappedFile(std::filesystem::path path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {base_, size_}; }
  /// Copies these bytes by a system call: their pages don't become this process' memory. Throws std::runtime_error.
  void read(std::span<const std::byte> bytes, std::byte* out) const;
  /// Lets the operating system drop these bytes' pages; they may be read again.
  void release(std::span<const std::byte> bytes) const noexcept;

 private:
  std::filesystem::path path_;
  std::byte* base_ = nullptr;
  std::size_t size_ = 0;
  int descriptor_ = -1;
};

}  // namespace coterie
