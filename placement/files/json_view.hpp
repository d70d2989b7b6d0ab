// Reading JSON that comes from outside: every access is checked, every message says where in the file it was.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

/// An object with the same key twice: an error, or the last one counts, as Python has it.
enum class SameKeys { refused, last_counts };

/// Throws InputError that names `where`: not JSON, nested deeper than 64, the same key twice.
[[nodiscard]] nlohmann::json parse_json(std::string_view text, const std::string& where,
                                        SameKeys same_keys = SameKeys::refused);
/// The same for a file, which must be readable.
[[nodiscard]] nlohmann::json read_json(const std::filesystem::path& path, SameKeys same_keys = SameKeys::refused);
/// A file's bytes. Throws InputError when it can't be read.
[[nodiscard]] std::string read_text(const std::filesystem::path& path);

/// A place in a JSON value, with the path that led there (`model.layer_ids[3]`). A view: the value and `where` must
/// outlive it. Everything throws InputError (where, field, found, expected) when the value is not what is asked for.
class JsonView {
 public:
  JsonView(const nlohmann::json& value, const std::string& where) : value_(&value), where_(&where) {}

  [[nodiscard]] JsonView operator[](const std::string& key) const;  ///< member of an object; must exist
  [[nodiscard]] JsonView operator[](std::size_t index) const;       ///< element of an array; must exist
  [[nodiscard]] bool has(const std::string& key) const;             ///< false also for null
  [[nodiscard]] std::size_t size() const;                           ///< elements; the value must be an array

  [[nodiscard]] std::int64_t integer(std::int64_t least, std::int64_t most) const;
  [[nodiscard]] std::vector<int> integers(int least, int most) const;  ///< the value must be an array
  [[nodiscard]] double number() const;
  [[nodiscard]] bool boolean() const;
  [[nodiscard]] const std::string& text() const;

  [[nodiscard]] const nlohmann::json& value() const noexcept { return *value_; }
  /// The error for this place.
  [[nodiscard]] class InputError error(std::string_view expected) const;

 private:
  JsonView(const nlohmann::json& value, const std::string& where, std::string field)
      : value_(&value), where_(&where), field_(std::move(field)) {}

  const nlohmann::json* value_;
  const std::string* where_;
  std::string field_;
};

}  // namespace coterie
