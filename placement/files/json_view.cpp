#include "placement/files/json_view.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>

namespace coterie {

using nlohmann::json;

namespace {

constexpr int kDeepest = 64;

/// What of a value fits into a message.
std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

std::string range(std::int64_t least, std::int64_t most) {
  return "an integer from " + std::to_string(least) + " to " + std::to_string(most);
}

/// nlohmann's message without its own error number, nor what was read last where a terminal can't show it.
std::string reason(const json::exception& e) {
  std::string text = e.what();
  if (const auto end = text.find("] "); end != std::string::npos) text.erase(0, end + 2);
  const auto last = std::min(text.find("; last read: "), text.size());
  const bool shows = std::all_of(text.begin() + static_cast<std::ptrdiff_t>(last), text.end(),
                                 [](unsigned char c) { return c >= ' ' && c <= '~'; });
  return shows ? text : text.substr(0, last);
}

bool is_integer_in(const json& value, std::int64_t least, std::int64_t most) {
  if (value.is_number_unsigned()) {
    const auto n = value.get<std::uint64_t>();
    return n <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) &&
           static_cast<std::int64_t>(n) >= least && static_cast<std::int64_t>(n) <= most;
  }
  return value.is_number_integer() && value.get<std::int64_t>() >= least && value.get<std::int64_t>() <= most;
}

}  // namespace

json parse_json(std::string_view text, const std::string& where, SameKeys same_keys) {
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kDeepest) throw InputError(where + ": JSON nested deeper than " + std::to_string(kDeepest));
    if (same_keys == SameKeys::last_counts) return true;
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      throw InputError(where + ": the key " + shown(parsed) + " stands twice in one object");
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), check);
  } catch (const json::exception& e) {
    throw InputError(where + ": not valid JSON: " + reason(e));
  }
}

json read_json(const std::filesystem::path& path, SameKeys same_keys) {
  return parse_json(read_text(path), path.string(), same_keys);
}

std::string read_text(const std::filesystem::path& path) {
  if (std::filesystem::is_directory(path)) throw InputError(path.string() + ": is a folder, expected a file");
  std::ifstream in(path, std::ios::binary);
  if (!in) throw InputError(path.string() + ": cannot open: " + std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  if (in.bad()) throw InputError(path.string() + ": cannot read: " + std::strerror(errno));
  return std::move(text).str();
}

InputError JsonView::error(std::string_view expected) const {
  return bad_field(*where_, field_.empty() ? "the top level" : field_, shown(*value_), expected);
}

JsonView JsonView::operator[](const std::string& key) const {
  if (!value_->is_object()) throw error("an object");
  const auto it = value_->find(key);
  const std::string path = field_.empty() ? key : field_ + "." + key;
  if (it == value_->end()) throw bad_field(*where_, path, "nothing", "this field");
  return {*it, *where_, path};
}

JsonView JsonView::operator[](std::size_t index) const {
  if (index >= size()) throw error("at least " + std::to_string(index + 1) + " elements");
  return {(*value_)[index], *where_, field_ + "[" + std::to_string(index) + "]"};
}

bool JsonView::has(const std::string& key) const {
  if (!value_->is_object()) throw error("an object");
  const auto it = value_->find(key);
  return it != value_->end() && !it->is_null();
}

std::size_t JsonView::size() const {
  if (!value_->is_array()) throw error("a list");
  return value_->size();
}

std::int64_t JsonView::integer(std::int64_t least, std::int64_t most) const {
  if (!is_integer_in(*value_, least, most)) throw error(range(least, most));
  return value_->get<std::int64_t>();
}

std::vector<int> JsonView::integers(int least, int most) const {
  const std::size_t n = size();
  std::vector<int> all(n);
  for (std::size_t i = 0; i < n; ++i) {
    const json& element = (*value_)[i];
    if (!is_integer_in(element, least, most)) throw(*this)[i].error(range(least, most));
    all[i] = element.get<int>();
  }
  return all;
}

double JsonView::number() const {
  if (!value_->is_number()) throw error("a number");
  return value_->get<double>();
}

bool JsonView::boolean() const {
  if (!value_->is_boolean()) throw error("true or false");
  return value_->get<bool>();
}

const std::string& JsonView::text() const {
  if (!value_->is_string()) throw error("a string");
  return value_->get_ref<const std::string&>();
}

}  // namespace coterie
