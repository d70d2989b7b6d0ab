// SHA-256 (FIPS 180-4): which file, to the byte, a plan or a result was made from.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace coterie {

class Sha256 {
 public:
  void update(std::span<const std::byte> bytes) noexcept;
  /// "sha256:" and 64 hexadecimal digits. The object is spent afterwards.
  [[nodiscard]] std::string finish() noexcept;

 private:
  void compress(const std::byte* block) noexcept;

  std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::byte, 64> pending_{};
  std::uint64_t length_ = 0;  ///< bytes so far
};

[[nodiscard]] std::string sha256_of(std::span<const std::byte> bytes);
/// Throws InputError when the file can't be read.
[[nodiscard]] std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace coterie
