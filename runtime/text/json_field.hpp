// Fields of a tokenizer's JSON files, read with messages that name the file, the field, what was found and what was
// expected.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>

namespace coterie {

/// Ids are below: what a file may say without filling the memory. Published vocabularies have a quarter of a million.
inline constexpr std::int64_t kMostTokens = 1 << 22;

/// An object inside a tokenizer.json. Refers to the JSON, which must outlive it.
class JsonField {
 public:
  /// `name` is the path of field names that leads here. Throws InputError where `json` is no object.
  JsonField(const nlohmann::json& json, std::string name, const std::filesystem::path& file);

  /// Null where the field is absent.
  [[nodiscard]] const nlohmann::json& operator[](const char* field) const;
  [[nodiscard]] std::string text(const char* field) const;
  [[nodiscard]] std::string text(const char* field, std::string_view otherwise) const;
  [[nodiscard]] bool flag(const char* field, bool otherwise) const;
  [[nodiscard]] std::int64_t number(const char* field, std::int64_t otherwise) const;
  /// A list of objects; throws InputError where it's something else.
  [[nodiscard]] std::vector<JsonField> objects(const char* field) const;
  /// The path to a field of this object, as messages have it.
  [[nodiscard]] std::string path(const char* field) const;
  /// Throws InputError: `field` has a value that isn't `expected`.
  [[noreturn]] void refuse(const char* field, std::string_view expected) const;
  [[nodiscard]] const std::filesystem::path& file() const noexcept { return *file_; }

 private:
  const nlohmann::json* json_;
  std::string name_;
  const std::filesystem::path* file_;
};

}  // namespace coterie
