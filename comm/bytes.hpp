// Values as bytes, for messages between ranks of the same program on machines of the same kind.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace coterie {

template <typename T>
concept PlainValue = std::is_trivially_copyable_v<T>;

/// Appends values to a message.
struct ByteWriter {
  std::vector<std::byte>& out;

  void raw(const void* data, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    out.insert(out.end(), first, first + bytes);
  }
  void operator()(const PlainValue auto& value) { raw(&value, sizeof value); }
  template <PlainValue T>
  void operator()(const std::vector<T>& values) {
    (*this)(values.size());
    raw(values.data(), values.size() * sizeof(T));
  }
  void operator()(const std::string& text) {
    (*this)(text.size());
    raw(text.data(), text.size());
  }
  void operator()(const std::vector<std::string>& texts) {
    (*this)(texts.size());
    for (const std::string& text : texts) (*this)(text);
  }
};

/// Takes values off the front of a message. Throws std::runtime_error when it ends too early.
struct ByteReader {
  std::span<const std::byte>& in;

  void raw(void* data, std::size_t bytes) {
    if (bytes == 0) return;
    std::memcpy(data, in.data(), bytes);
    in = in.subspan(bytes);
  }
  /// A number of elements, of which each takes at least `bytes` of what is left.
  std::size_t count(std::size_t bytes) {
    std::size_t n = 0;
    (*this)(n);
    if (n > in.size() / bytes) throw std::runtime_error("a message from another rank is cut short");
    return n;
  }
  void operator()(PlainValue auto& value) {
    if (in.size() < sizeof value) throw std::runtime_error("a message from another rank is cut short");
    raw(&value, sizeof value);
  }
  template <PlainValue T>
  void operator()(std::vector<T>& values) {
    values.resize(count(sizeof(T)));
    raw(values.data(), values.size() * sizeof(T));
  }
  void operator()(std::string& text) {
    text.resize(count(1));
    raw(text.data(), text.size());
  }
  void operator()(std::vector<std::string>& texts) {
    texts.resize(count(sizeof(std::size_t)));
    for (std::string& text : texts) (*this)(text);
  }
};

}  // namespace coterie
