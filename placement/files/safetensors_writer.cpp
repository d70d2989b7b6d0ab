#include "placement/files/replacing_file.hpp"
#include "placement/files/safetensors.hpp"
#include "placement/input_error.hpp"

#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace coterie {
namespace {

struct Array {
  std::string name;
  ElementType type;
  Shape shape;
  std::int64_t begin = 0;   // in the spool
  std::int64_t filled = 0;  // bytes
  std::int64_t size = 0;    // bytes
};

std::int64_t bytes_of(ElementType type, const Shape& shape) {
  auto bytes = static_cast<std::int64_t>(size_of(type));
  for (const std::int64_t n : shape) bytes *= n;
  return bytes;
}

std::string header_of(const std::vector<Array>& arrays, const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header;
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::int64_t offset = 0;
  for (const Array& a : arrays) {
    header[a.name] = {{"dtype", name_of(a.type)}, {"shape", a.shape}, {"data_offsets", {offset, offset + a.size}}};
    offset += a.size;
  }
  if (header.is_null()) return "{}      ";
  std::string text = header.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace

struct SafetensorsWriter::State {
  ReplacingFile target;
  std::filesystem::path path;
  int spool;
  std::vector<Array> arrays;
  std::map<std::string, std::string> metadata;

  explicit State(const std::filesystem::path& file) : target(file), path(file), spool(open_spool(file)) {}
  ~State() { ::close(spool); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  void check_filled() const {
    if (!arrays.empty() && arrays.back().filled != arrays.back().size)
      throw std::logic_error("array " + arrays.back().name + " is " + std::to_string(arrays.back().filled) + " of " +
                             std::to_string(arrays.back().size) + " bytes");
  }

  void copy(const Array& array) {
    std::vector<std::byte> buffer(static_cast<std::size_t>(std::min<std::int64_t>(array.size, 4 << 20)));
    for (std::int64_t done = 0; done < array.size;) {
      const auto want = static_cast<std::size_t>(std::min<std::int64_t>(buffer.size(), array.size - done));
      const ssize_t n = ::pread(spool, buffer.data(), want, array.begin + done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0)
        throw std::runtime_error(path.string() + ": cannot read back what was written: " + std::strerror(errno));
      target.write(std::span<const std::byte>(buffer).first(static_cast<std::size_t>(n)));
      done += n;
    }
  }
};

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path) : state_(std::make_unique<State>(path)) {}
SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::begin(const std::string& name, ElementType type, const Shape& shape) {
  state_->check_filled();
  auto& arrays = state_->arrays;
  if (std::any_of(arrays.begin(), arrays.end(), [&](const Array& a) { return a.name == name; }))
    throw std::logic_error("array " + name + " is already there");
  const std::int64_t begin = arrays.empty() ? 0 : arrays.back().begin + arrays.back().size;
  arrays.push_back({name, type, shape, begin, 0, bytes_of(type, shape)});
}

void SafetensorsWriter::append(std::span<const std::byte> bytes) {
  Array& array = state_->arrays.back();
  array.filled += static_cast<std::int64_t>(bytes.size());
  if (array.filled > array.size) state_->check_filled();
  write_all(state_->spool, bytes, state_->path);
}

void SafetensorsWriter::add(const std::string& name, ElementType type, const Shape& shape,
                            std::span<const std::byte> bytes) {
  begin(name, type, shape);
  append(bytes);
}

void SafetensorsWriter::metadata(const std::string& key, const std::string& value) {
  state_->metadata[key] = value;
}

void SafetensorsWriter::finish() {
  state_->check_filled();
  // Larger elements first: every array is then aligned to its elements, as some readers need.
  auto order = state_->arrays;
  std::stable_sort(order.begin(), order.end(),
                   [](const Array& a, const Array& b) { return size_of(a.type) > size_of(b.type); });
  const std::string header = header_of(order, state_->metadata);
  std::array<std::byte, 8> length{};
  for (std::size_t i = 0; i < 8; ++i) length[i] = static_cast<std::byte>(header.size() >> (8 * i));
  state_->target.write(length);
  state_->target.write(header);
  for (const Array& array : order) state_->copy(array);
  state_->target.commit();
}

}  // namespace coterie
