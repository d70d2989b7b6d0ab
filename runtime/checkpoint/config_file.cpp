#include "runtime/checkpoint/config_file.hpp"

#include "placement/files/json_view.hpp"
#include "placement/input_error.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace coterie {

ConfigFile::ConfigFile(const std::filesystem::path& path) : where_(path.string()), fields_(read_json(path)) {
  if (!fields_.is_object()) throw InputError(where_ + ": found JSON that is not an object, expected an object");
}

const nlohmann::json* ConfigFile::find(const std::string& field) const {
  known_->insert(prefix_ + field);
  const auto it = fields_.find(field);
  return it == fields_.end() || it->is_null() ? nullptr : &*it;
}

void ConfigFile::fail(const std::string& field, const std::string& expected) const {
  const auto it = fields_.find(field);
  std::string found = it == fields_.end() ? "nothing" : it->dump();
  if (found.size() > 80) found = found.substr(0, 77) + "...";
  throw bad_field(where_, prefix_ + field, found, expected);
}

bool ConfigFile::has(const std::string& field) const {
  return find(field) != nullptr;
}

bool ConfigFile::is_list(const std::string& field) const {
  const auto* value = find(field);
  return value != nullptr && value->is_array();
}

std::string ConfigFile::either(const std::string& field, const std::string& other) const {
  const auto* a = find(field);
  const auto* b = find(other);
  if (a != nullptr && b != nullptr && *a != *b) fail(other, "what " + field + " has, " + a->dump());
  return a == nullptr && b != nullptr ? other : field;
}

std::string ConfigFile::text(const std::string& field) const {
  const auto* value = find(field);
  if (value == nullptr || !value->is_string()) fail(field, "a string");
  return value->get<std::string>();
}

std::int64_t ConfigFile::count(const std::string& field, std::int64_t most) const {
  const auto* value = find(field);
  if (value == nullptr || !value->is_number_integer() || *value < 1 || *value > most) {
    fail(field, "an integer between 1 and " + std::to_string(most));
  }
  return value->get<std::int64_t>();
}

std::int64_t ConfigFile::positive(const std::string& field) const {
  return count(field, std::numeric_limits<std::int32_t>::max());
}

std::int64_t ConfigFile::positive(const std::string& field, std::int64_t fallback) const {
  return has(field) ? positive(field) : fallback;
}

std::int64_t ConfigFile::between(const std::string& field, std::int64_t least, std::int64_t most,
                                 std::int64_t fallback) const {
  const auto* value = find(field);
  if (value == nullptr) return fallback;
  if (!value->is_number_integer() || *value < least || *value > most) {
    fail(field, "an integer between " + std::to_string(least) + " and " + std::to_string(most));
  }
  return value->get<std::int64_t>();
}

double ConfigFile::number(const std::string& field) const {
  const auto* value = find(field);
  if (value == nullptr || !value->is_number() || !std::isfinite(value->get<double>())) fail(field, "a number");
  return value->get<double>();
}

double ConfigFile::number(const std::string& field, double fallback) const {
  return has(field) ? number(field) : fallback;
}

bool ConfigFile::flag(const std::string& field, bool fallback) const {
  const auto* value = find(field);
  if (!fields_.contains(field)) return fallback;
  const bool null = value == nullptr;
  if (null && !fallback) return false;
  if (null || !value->is_boolean()) fail(field, "true or false");
  return value->get<bool>();
}

std::vector<std::int32_t> ConfigFile::integers(const std::string& field) const {
  const auto* value = find(field);
  if (value == nullptr) return {};
  constexpr std::int64_t kLeast = std::numeric_limits<std::int32_t>::min();
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
  std::vector<std::int32_t> out;
  for (const auto& item : list) {
    if (!item.is_number_integer() || item < kLeast || item > kMost) {
      fail(field, "an integer of 32 bits or a list of such");
    }
    out.push_back(item.get<std::int32_t>());
  }
  return out;
}

std::vector<double> ConfigFile::numbers(const std::string& field) const {
  const auto* value = find(field);
  if (value == nullptr || !value->is_array()) fail(field, "a list of numbers");
  std::vector<double> out;
  for (const auto& item : *value) {
    if (!item.is_number() || !std::isfinite(item.get<double>())) fail(field, "a list of numbers");
    out.push_back(item.get<double>());
  }
  return out;
}

std::vector<std::string> ConfigFile::texts(const std::string& field) const {
  const auto* value = find(field);
  if (value == nullptr) return {};
  const bool strings =
      value->is_array() && std::all_of(value->begin(), value->end(), [](const auto& item) { return item.is_string(); });
  if (!strings) fail(field, "a list of strings");
  return value->get<std::vector<std::string>>();
}

std::optional<ConfigFile> ConfigFile::object(const std::string& field) const {
  const auto* value = find(field);
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) fail(field, "an object");
  return ConfigFile(where_, prefix_ + field + ".", *value, known_);
}

ConfigFile ConfigFile::object_of(const std::string& field, const std::string& text) const {
  return ConfigFile(where_, prefix_ + field + ".", nlohmann::json::parse(text), known_);
}

std::vector<std::string> ConfigFile::fields() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : fields_.items()) {
    names.push_back(name);
    known_->insert(prefix_ + name);
  }
  return names;
}

void ConfigFile::expect(const std::string& field, const std::string& value) const {
  if (has(field) && text(field) != value) fail(field, "\"" + value + "\"");
}

void ConfigFile::expect_flag(const std::string& field, bool value) const {
  if (flag(field, value) != value) fail(field, value ? "true" : "false");
}

void ConfigFile::ignore(std::initializer_list<const char*> fields) const {
  for (const char* field : fields) known_->insert(prefix_ + field);
}

void ConfigFile::expect_no_more(const std::string& reader) const {
  for (const auto& [name, value] : fields_.items()) {
    if (value.is_null() || name.starts_with('_')) continue;
    if (!known_->contains(prefix_ + name)) {
      fail(name, "no such field: " + reader + " doesn't know what it means for the arithmetic");
    }
    // A nested object that was asked for has fields that were; one that was ignored hasn't.
    const std::string inner = prefix_ + name + ".";
    const auto first = known_->lower_bound(inner);
    const bool read = first != known_->end() && first->starts_with(inner);
    if (value.is_object() && read) ConfigFile(where_, inner, value, known_).expect_no_more(reader);
  }
}

}  // namespace coterie
