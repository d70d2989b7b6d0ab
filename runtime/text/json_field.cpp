#include "runtime/text/json_field.hpp"

#include "placement/input_error.hpp"

#include <limits>
#include <utility>

namespace coterie {
namespace {

/// A value as a message shows it.
std::string shown(const nlohmann::json& value) {
  constexpr std::size_t kLongest = 80;
  if (value.is_null()) return "nothing";
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kLongest) text.replace(kLongest, std::string::npos, "...");
  return text;
}

}  // namespace

JsonField::JsonField(const nlohmann::json& json, std::string name, const std::filesystem::path& file)
    : json_(&json), name_(std::move(name)), file_(&file) {
  if (!json.is_object()) throw bad_field(file.string(), name_.empty() ? "contents" : name_, shown(json), "an object");
}

const nlohmann::json& JsonField::operator[](const char* field) const {
  static const nlohmann::json null;
  const auto found = json_->find(field);
  return found == json_->end() ? null : *found;
}

std::string JsonField::text(const char* field) const {
  const nlohmann::json& value = (*this)[field];
  if (!value.is_string()) refuse(field, "a text");
  return value.get<std::string>();
}

std::string JsonField::text(const char* field, std::string_view otherwise) const {
  return (*this)[field].is_null() ? std::string(otherwise) : text(field);
}

bool JsonField::flag(const char* field, bool otherwise) const {
  const nlohmann::json& value = (*this)[field];
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) refuse(field, "true or false");
  return value.get<bool>();
}

std::int64_t JsonField::number(const char* field, std::int64_t otherwise) const {
  const nlohmann::json& value = (*this)[field];
  if (value.is_null()) return otherwise;
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMost) refuse(field, "a whole number of at least 0");
  return value.get<std::int64_t>();
}

std::vector<JsonField> JsonField::objects(const char* field) const {
  const nlohmann::json& list = (*this)[field];
  if (!list.is_array()) refuse(field, "a list of objects");
  std::vector<JsonField> found;
  for (std::size_t i = 0; i < list.size(); ++i) {
    found.emplace_back(list[i], path(field) + "[" + std::to_string(i) + "]", *file_);
  }
  return found;
}

std::string JsonField::path(const char* field) const {
  return name_.empty() ? field : name_ + "." + field;
}

void JsonField::refuse(const char* field, std::string_view expected) const {
  throw bad_field(file_->string(), path(field), shown((*this)[field]), expected);
}

}  // namespace coterie
