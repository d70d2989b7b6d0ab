// An output file that appears whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace coterie {

/// Writes beside `path` and puts the result in its place in one step when `commit` is called; without it nothing is
/// left behind and an older file stays as it was. What is there and is not a regular file (a pipe, a device) is written
/// to directly. Everything throws InputError with the system's reason when it can't be written.
class ReplacingFile {
 public:
  explicit ReplacingFile(std::filesystem::path path);
  ~ReplacingFile();
  ReplacingFile(const ReplacingFile&) = delete;
  ReplacingFile& operator=(const ReplacingFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  void commit();

 private:
  std::filesystem::path path_;       ///< as the user named it, for messages
  std::filesystem::path target_;     ///< links followed; empty: written to directly
  std::filesystem::path temporary_;  ///< the same
  int descriptor_ = -1;
};

/// Where a file that is written at `path` ends up: absolute, links followed, also one to what isn't there yet.
[[nodiscard]] std::filesystem::path place_of(const std::filesystem::path& path);

/// Throws what a ReplacingFile at `path` would, and leaves everything as it is: for before the work whose result goes
/// there.
void demand_writable(const std::filesystem::path& path);

/// Writes a whole text file in one step.
void replace_file(const std::filesystem::path& path, std::string_view text);

/// A nameless file for bytes that wait to be copied elsewhere, in the folder of `beside` or, where that is not a
/// regular file, in the system's folder for temporary files. It vanishes with its last descriptor. Throws InputError
/// when it can't be made. The caller closes the descriptor.
[[nodiscard]] int open_spool(const std::filesystem::path& beside);
/// write(2) until all is written. Throws InputError that names `path`.
void write_all(int descriptor, std::span<const std::byte> bytes, const std::filesystem::path& path);

}  // namespace coterie
