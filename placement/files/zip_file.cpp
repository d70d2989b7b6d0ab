#include "placement/files/zip_file.hpp"

#include "placement/input_error.hpp"

#include <cstdint>
#include <cstring>
#include <fstream>
#include <optional>
#include <string_view>

namespace coterie {
namespace {

constexpr std::uint32_t kLocalHeader = 0x04034b50;
constexpr std::uint32_t kCentralHeader = 0x02014b50;
constexpr std::uint32_t kEnd = 0x06054b50;
constexpr std::uint32_t kEnd64 = 0x06064b50;
constexpr std::uint32_t kEnd64Locator = 0x07064b50;
constexpr std::uint32_t kIn64 = 0xffffffff;  // the number stands in the zip64 field instead

/// Little-endian numbers anywhere in the file; what lies outside is an InputError.
class Reader {
 public:
  Reader(std::span<const std::byte> bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}

  template <class T>
  [[nodiscard]] T at(std::uint64_t offset) const {
    T value;
    std::memcpy(&value, part(offset, sizeof(T)).data(), sizeof(T));
    return value;
  }
  [[nodiscard]] std::span<const std::byte> part(std::uint64_t offset, std::uint64_t size) const {
    if (offset > bytes_.size() || size > bytes_.size() - offset)
      throw bad_field(where_, "zip archive", "an offset of " + std::to_string(offset) + " and more",
                      "less than the file's " + std::to_string(bytes_.size()) + " bytes; truncated");
    return bytes_.subspan(offset, size);
  }
  [[nodiscard]] std::string text(std::uint64_t offset, std::uint64_t size) const {
    const auto bytes = part(offset, size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  [[nodiscard]] std::uint64_t size() const { return bytes_.size(); }
  [[nodiscard]] InputError error(const std::string& what) const { return InputError(where_ + ": " + what); }

 private:
  std::span<const std::byte> bytes_;
  std::string where_;
};

struct Directory {
  std::uint64_t entries = 0;
  std::uint64_t offset = 0;
};

Directory find_directory(const Reader& in) {
  constexpr std::uint64_t kEndSize = 22;
  constexpr std::uint64_t kLongestComment = 65535;
  for (std::uint64_t back = kEndSize; back <= kEndSize + kLongestComment && back <= in.size(); ++back) {
    const std::uint64_t end = in.size() - back;
    if (in.at<std::uint32_t>(end) != kEnd) continue;
    Directory found{in.at<std::uint16_t>(end + 10), in.at<std::uint32_t>(end + 16)};
    if (end >= 20 && in.at<std::uint32_t>(end - 20) == kEnd64Locator) {
      const auto end64 = in.at<std::uint64_t>(end - 20 + 8);
      if (in.at<std::uint32_t>(end64) != kEnd64)
        throw in.error("zip archive: the zip64 directory is not where it should be");
      found = {in.at<std::uint64_t>(end64 + 32), in.at<std::uint64_t>(end64 + 48)};
    }
    return found;
  }
  throw in.error("found no directory of a zip archive, expected a file that torch.save wrote; truncated?");
}

struct Entry {
  std::string name;
  std::uint64_t size = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;  // of the directory's record
};

Entry read_entry(const Reader& in, std::uint64_t at) {
  if (in.at<std::uint32_t>(at) != kCentralHeader) throw in.error("zip archive: found something else in the directory");
  const auto method = in.at<std::uint16_t>(at + 10);
  const std::uint64_t name = in.at<std::uint16_t>(at + 28);
  const std::uint64_t extra = in.at<std::uint16_t>(at + 30);
  const std::uint64_t comment = in.at<std::uint16_t>(at + 32);
  Entry entry{in.text(at + 46, name), in.at<std::uint32_t>(at + 24), in.at<std::uint32_t>(at + 42),
              46 + name + extra + comment};
  if (method != 0) throw in.error("zip archive: entry " + entry.name + " is compressed, expected stored entries");
  // The zip64 field holds, in this order, those of the numbers that don't fit 32 bits.
  for (std::uint64_t field = at + 46 + name, end = field + extra; field + 4 <= end;) {
    const auto size = in.at<std::uint16_t>(field + 2);
    if (in.at<std::uint16_t>(field) == 1) {
      std::uint64_t number = field + 4;
      if (entry.size == kIn64) entry.size = in.at<std::uint64_t>(number), number += 8;
      if (in.at<std::uint32_t>(at + 20) == kIn64) number += 8;
      if (entry.offset == kIn64) entry.offset = in.at<std::uint64_t>(number);
    }
    field += 4 + size;
  }
  return entry;
}

}  // namespace

ZipFile::ZipFile(const std::filesystem::path& path) : file_(path) {
  const Reader in(file_.bytes(), path.string());
  const Directory directory = find_directory(in);
  std::uint64_t at = directory.offset;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    const Entry entry = read_entry(in, at);
    if (in.at<std::uint32_t>(entry.offset) != kLocalHeader)
      throw in.error("zip archive: entry " + entry.name + " is not where the directory says");
    const std::uint64_t data =
        entry.offset + 30 + in.at<std::uint16_t>(entry.offset + 26) + in.at<std::uint16_t>(entry.offset + 28);
    entries_[entry.name] = in.part(data, entry.size);
    at += entry.length;
  }
}

bool is_zip(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::uint32_t start = 0;
  return in.read(reinterpret_cast<char*>(&start), sizeof(start)) && start == kLocalHeader;
}

}  // namespace coterie
