#include "placement/files/npy_file.hpp"

#include "placement/files/half.hpp"
#include "placement/files/replacing_file.hpp"
#include "placement/input_error.hpp"

#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <regex>
#include <string>
#include <string_view>

namespace coterie {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr std::size_t kLongestHeader = 4096;  // bytes; NumPy writes 118 for a plain array

/// The text behind `'key':` in the header, a Python dictionary; nothing when it is not there.
std::optional<std::string> field(const std::string& header, const std::string& key, const std::string& pattern) {
  std::smatch match;
  if (!std::regex_search(header, match, std::regex("['\"]" + key + "['\"]\\s*:\\s*" + pattern))) return std::nullopt;
  return match[1].str();
}

template <class From, class To>
std::vector<To> converted(std::span<const std::byte> bytes) {
  std::vector<To> values(bytes.size() / sizeof(From));
  for (std::size_t i = 0; i < values.size(); ++i) {
    From value;
    std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));
    values[i] = static_cast<To>(value);  // NOLINT(bugprone-signed-char-misuse): a small number, no character
  }
  return values;
}

std::int32_t narrow(std::int64_t value, const std::string& where) {
  if (value < std::numeric_limits<std::int32_t>::min() || value > std::numeric_limits<std::int32_t>::max())
    throw bad_field(where, "an element", std::to_string(value), "a number of 32 bits");
  return static_cast<std::int32_t>(value);
}

}  // namespace

NpyFile::NpyFile(const std::filesystem::path& path) : file_(path) {
  const std::string where = path.string();
  const auto bytes = file_.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with(kMagic) || text.size() < 12)
    throw bad_field(where, "first bytes", "something else", "a .npy file's");
  const auto at = [&](std::size_t i) { return std::to_integer<std::size_t>(bytes[i]); };
  const bool long_header = at(6) >= 2;
  const std::size_t begin = long_header ? 12 : 10;
  const std::size_t length = at(8) | at(9) << 8 | (long_header ? at(10) << 16 | at(11) << 24 : 0);
  if (length > kLongestHeader || length > bytes.size() - begin)
    throw bad_field(where, "header length", std::to_string(length) + " bytes", "less than the file; truncated");
  const std::string header(text.substr(begin, length));

  const auto type = field(header, "descr", "['\"]([^'\"]*)['\"]");
  if (!type) throw bad_field(where, "descr", "nothing", "an element type");
  std::smatch match;
  if (!std::regex_match(*type, match, std::regex("[<|=]([iuf])([1248])")) || *type == "|f1" || *type == "<f1")
    throw bad_field(where, "descr", "'" + *type + "'", "little-endian integers or floats, such as '<i4'");
  kind_ = match[1].str()[0];
  size_ = static_cast<std::size_t>(match[2].str()[0] - '0');
  if (field(header, "fortran_order", "(False)") != "False")
    throw bad_field(where, "fortran_order", "True", "False; save np.ascontiguousarray(array)");

  const auto shape = field(header, "shape", "\\(([0-9, ]*)\\)");
  if (!shape) throw bad_field(where, "shape", "nothing", "a tuple of numbers");
  std::int64_t total = static_cast<std::int64_t>(size_);
  const std::regex number("[0-9]+");
  for (auto it = std::sregex_iterator(shape->begin(), shape->end(), number); it != std::sregex_iterator(); ++it) {
    const std::string digits = it->str();
    shape_.push_back(digits.size() > 18 ? std::numeric_limits<std::int64_t>::max() : std::stoll(digits));
    if (__builtin_mul_overflow(total, shape_.back(), &total))
      throw bad_field(where, "shape", "(" + *shape + ")", "fewer than 2^63 bytes");
  }
  data_ = bytes.subspan(begin + length);
  if (static_cast<std::int64_t>(data_.size()) != total)
    throw bad_field(where, "size of the data", std::to_string(data_.size()) + " bytes",
                    std::to_string(total) + " bytes for " + *type + " " + to_string(shape_));
}

std::vector<std::int32_t> NpyFile::integers() const {
  const std::string where = file_.path().string();
  if (!is_integer()) throw bad_field(where, "descr", "floating-point numbers", "integers");
  if (kind_ == 'i' && size_ == 1) return converted<std::int8_t, std::int32_t>(data_);
  if (kind_ == 'u' && size_ == 1) return converted<std::uint8_t, std::int32_t>(data_);
  if (kind_ == 'i' && size_ == 2) return converted<std::int16_t, std::int32_t>(data_);
  if (kind_ == 'u' && size_ == 2) return converted<std::uint16_t, std::int32_t>(data_);
  if (kind_ == 'i' && size_ == 4) return converted<std::int32_t, std::int32_t>(data_);
  std::vector<std::int32_t> values;
  values.reserve(data_.size() / size_);
  for (std::size_t i = 0; i < data_.size(); i += size_) {
    std::uint64_t value = 0;  // of 32 bits unsigned, or 64 bits; above 2^63 it is negative, and either way too large
    std::memcpy(&value, data_.data() + i, size_);
    values.push_back(narrow(static_cast<std::int64_t>(value), where));
  }
  return values;
}

std::vector<float> NpyFile::floats() const {
  if (is_integer()) throw bad_field(file_.path().string(), "descr", "integers", "floating-point numbers");
  if (size_ == 4) return converted<float, float>(data_);
  if (size_ == 8) return converted<double, float>(data_);
  std::vector<float> values;
  for (const std::uint16_t bits : converted<std::uint16_t, std::uint16_t>(data_))
    values.push_back(Half::from_bits(bits));
  return values;
}

bool is_npy(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::string start(kMagic.size(), '\0');
  return in.read(start.data(), static_cast<std::streamsize>(start.size())) && start == kMagic;
}

void write_npy(const std::filesystem::path& path, const Shape& shape, std::span<const std::int64_t> values) {
  std::string dimensions;
  for (const std::int64_t n : shape) dimensions += std::to_string(n) + ", ";
  std::string header = "{'descr': '<i8', 'fortran_order': False, 'shape': (" + dimensions + "), }";
  header.resize((10 + header.size() + 1 + 63) / 64 * 64 - 10, ' ');
  header.back() = '\n';
  ReplacingFile file(path);
  file.write(kMagic);
  file.write(std::string{1, 0, static_cast<char>(header.size()), static_cast<char>(header.size() >> 8)});
  file.write(header);
  file.write(std::as_bytes(values));
  file.commit();
}

}  // namespace coterie
