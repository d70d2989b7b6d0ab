#include "placement/files/safetensors.hpp"

#include "placement/files/json_view.hpp"
#include "placement/files/mapped_file.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

namespace coterie {
namespace {

constexpr std::uint64_t kLongestHeader = 100'000'000;  // bytes; the format's own limit

struct ElementName {
  ElementType type;
  std::string_view name;
  std::size_t size;
};

constexpr std::array<ElementName, 16> kElementNames{{
    {ElementType::boolean, "BOOL", 1},
    {ElementType::u8, "U8", 1},
    {ElementType::i8, "I8", 1},
    {ElementType::f8_e4m3, "F8_E4M3", 1},
    {ElementType::f8_e5m2, "F8_E5M2", 1},
    {ElementType::f8_e8m0, "F8_E8M0", 1},
    {ElementType::u16, "U16", 2},
    {ElementType::i16, "I16", 2},
    {ElementType::f16, "F16", 2},
    {ElementType::bf16, "BF16", 2},
    {ElementType::u32, "U32", 4},
    {ElementType::i32, "I32", 4},
    {ElementType::f32, "F32", 4},
    {ElementType::u64, "U64", 8},
    {ElementType::i64, "I64", 8},
    {ElementType::f64, "F64", 8},
}};

const ElementName& entry(ElementType type) noexcept {
  return kElementNames[static_cast<std::size_t>(type)];
}

std::uint64_t little_endian(std::span<const std::byte, 8> bytes) {
  std::uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | std::to_integer<std::uint64_t>(bytes[i]);
  return value;
}

/// Bytes of an array; nothing when they don't fit 63 bits.
std::optional<std::int64_t> bytes_of(ElementType type, const Shape& shape) {
  auto bytes = static_cast<std::int64_t>(size_of(type));
  for (const std::int64_t n : shape)
    if (__builtin_mul_overflow(bytes, n, &bytes)) return std::nullopt;
  return bytes;
}

}  // namespace

std::size_t size_of(ElementType type) noexcept {
  return entry(type).size;
}
std::string_view name_of(ElementType type) noexcept {
  return entry(type).name;
}

std::string to_string(const Shape& shape) {
  std::string text;
  for (const std::int64_t n : shape) text += (text.empty() ? "" : ", ") + std::to_string(n);
  return "[" + text + "]";
}

struct SafetensorsFile::Mapping {
  MappedFile file;
  std::map<std::string, std::string> metadata;
  std::map<std::string, TensorView> tensors;

  explicit Mapping(std::filesystem::path path) : file(std::move(path)) { read_header(); }

  [[nodiscard]] std::string where() const { return file.path().string(); }

  void read_header() {
    const auto bytes = file.bytes();
    if (bytes.size() < 8) throw bad_field(where(), "size", std::to_string(bytes.size()) + " bytes", "at least 8");
    const std::string_view start(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (start.starts_with("version https://git-lfs"))
      throw bad_field(where(), "contents", "a pointer of Git LFS", "the file that it stands for (git lfs pull)");
    const std::uint64_t length = little_endian(bytes.first<8>());
    if (length > kLongestHeader || length > bytes.size() - 8)
      throw bad_field(where(), "header length", std::to_string(length) + " bytes",
                      "at most " + std::to_string(std::min<std::uint64_t>(bytes.size() - 8, kLongestHeader)) +
                          " (file of " + std::to_string(bytes.size()) + " bytes); truncated or not a safetensors file");
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8, length);
    const nlohmann::json header = parse_json(text, where() + ": header");
    if (!header.is_object()) throw bad_field(where(), "header", header.type_name(), "a JSON object");
    const auto data = bytes.subspan(8 + length);
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        read_metadata(value);
      } else {
        tensors.emplace(name, read_tensor(name, value, data));
      }
    }
    check_layout(data);
  }

  void read_metadata(const nlohmann::json& value) {
    if (!value.is_object()) throw bad_field(where(), "__metadata__", value.type_name(), "an object of strings");
    for (const auto& [key, text] : value.items()) {
      if (!text.is_string()) throw bad_field(where(), "__metadata__." + key, text.type_name(), "a string");
      metadata.emplace(key, text.get<std::string>());
    }
  }

  TensorView read_tensor(const std::string& name, const nlohmann::json& value, std::span<const std::byte> data) const {
    const std::string here = where() + ": tensor " + name;
    const JsonView view(value, here);
    const JsonView dtype = view["dtype"];
    const auto known = std::find_if(kElementNames.begin(), kElementNames.end(),
                                    [&](const ElementName& e) { return e.name == dtype.text(); });
    if (known == kElementNames.end()) throw dtype.error("a known element type (F32, BF16, U8, ...)");

    TensorView tensor{known->type, {}, {}};
    const auto shape = view["shape"];
    constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
    for (std::size_t i = 0; i < shape.size(); ++i) tensor.shape.push_back(shape[i].integer(0, kMost));
    const auto needed = bytes_of(tensor.type, tensor.shape);
    if (!needed) throw bad_field(here, "shape", to_string(tensor.shape), "fewer than 2^63 bytes");

    const auto offsets = view["data_offsets"];
    if (offsets.size() != 2) throw offsets.error("two offsets");
    const auto length = static_cast<std::int64_t>(data.size());
    const std::int64_t begin = offsets[0].integer(0, length);
    const std::int64_t end = offsets[1].integer(begin, length);
    if (end - begin != *needed)
      throw bad_field(
          here, "data_offsets", std::to_string(end - begin) + " bytes",
          std::to_string(*needed) + " bytes for " + std::string(known->name) + " " + to_string(tensor.shape));
    tensor.bytes = data.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
    return tensor;
  }

  /// The arrays must cover the data without overlap or holes.
  void check_layout(std::span<const std::byte> data) const {
    std::vector<std::pair<const std::string*, std::span<const std::byte>>> order;
    for (const auto& [name, tensor] : tensors) order.emplace_back(&name, tensor.bytes);
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return std::pair(a.second.data(), a.second.size()) < std::pair(b.second.data(), b.second.size());
    });
    const std::byte* next = data.data();
    for (const auto& [name, bytes] : order) {
      if (bytes.data() != next)
        throw bad_field(where() + ": tensor " + *name, "data_offsets",
                        "start " + std::to_string(bytes.data() - data.data()),
                        std::to_string(next - data.data()) + ", where the array before it ends (no overlap, no hole)");
      next += bytes.size();
    }
    if (next != data.data() + data.size())
      throw bad_field(where(), "size of the data", std::to_string(data.size()) + " bytes",
                      std::to_string(next - data.data()) + ", where the last array ends");
  }
};

SafetensorsFile::SafetensorsFile(std::filesystem::path path) : mapping_(std::make_unique<Mapping>(std::move(path))) {}
SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

const std::filesystem::path& SafetensorsFile::path() const noexcept {
  return mapping_->file.path();
}
const std::map<std::string, std::string>& SafetensorsFile::metadata() const noexcept {
  return mapping_->metadata;
}
const std::map<std::string, TensorView>& SafetensorsFile::tensors() const noexcept {
  return mapping_->tensors;
}
bool SafetensorsFile::contains(const std::string& name) const noexcept {
  return mapping_->tensors.contains(name);
}

const TensorView& SafetensorsFile::at(const std::string& name) const {
  const auto it = mapping_->tensors.find(name);
  if (it == mapping_->tensors.end()) throw bad_field(path().string(), "tensor " + name, "nothing", "this tensor");
  return it->second;
}

void SafetensorsFile::read(std::span<const std::byte> bytes, std::byte* out) const {
  mapping_->file.read(bytes, out);
}

void SafetensorsFile::release(std::span<const std::byte> bytes) const noexcept {
  mapping_->file.release(bytes);
}

}  // namespace coterie
