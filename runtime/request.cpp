#include "runtime/request.hpp"

#include <concepts>
#include <cstring>
#include <stdexcept>

namespace coterie {
namespace {

/// The one list of what travels, for both directions.
template <typename Visitor, typename AnyRequest>
void visit(Visitor&& on, AnyRequest& r) {
  on(r.custom_id);
  on(r.line);
  on(r.prompt);
  on(r.prompt_text);
  on(r.max_tokens);
  on(r.sampling);
  on(r.stop);
  on(r.stop_token_ids);
  on(r.ignore_eos);
  on(r.echo);
  on(r.return_token_ids);
  on(r.include_stop_str_in_output);
}

template <typename T>
concept Plain = std::is_trivially_copyable_v<T>;

struct Writer {
  std::vector<std::byte>& out;

  void raw(const void* data, std::size_t bytes) {
    const auto* first = static_cast<const std::byte*>(data);
    out.insert(out.end(), first, first + bytes);
  }
  void operator()(const Plain auto& value) { raw(&value, sizeof value); }
  template <Plain T>
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

struct Reader {
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
    if (n > in.size() / bytes) throw std::runtime_error("a request that came from another rank is cut short");
    return n;
  }
  void operator()(Plain auto& value) {
    if (in.size() < sizeof value) throw std::runtime_error("a request that came from another rank is cut short");
    raw(&value, sizeof value);
  }
  template <Plain T>
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

}  // namespace

void append(std::vector<std::byte>& message, const Request& request) {
  visit(Writer{message}, request);
}

Request take_request(std::span<const std::byte>& message) {
  Request request;
  visit(Reader{message}, request);
  return request;
}

}  // namespace coterie
