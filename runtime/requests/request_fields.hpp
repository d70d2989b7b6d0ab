// The fields of a request's JSON, checked one by one.
#pragma once

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>

namespace coterie {

/// What is wrong with a line of a requests file: `code` for programs, `message` for people. Ends the parsing of the
/// line.
struct WrongRequest {
  const char* code;
  std::string message;
};

/// A value as a message shows it.
[[nodiscard]] std::string shown(const nlohmann::json& value);
[[nodiscard]] WrongRequest wrong_value(const std::string& field, const std::string& found, const std::string& expected);
[[nodiscard]] WrongRequest missing_value(const std::string& field, const std::string& expected);

/// The fields of an object, each to be asked for once. What nobody asked for is left over. Members throw WrongRequest.
class RequestFields {
 public:
  RequestFields(nlohmann::json object, std::string prefix) : object_(std::move(object)), prefix_(std::move(prefix)) {}

  [[nodiscard]] std::string path(const char* name) const { return prefix_ + name; }
  /// Nothing for a field that is absent or null.
  std::optional<nlohmann::json> take(const char* name);
  std::optional<bool> flag(const char* name);
  bool flag(const char* name, bool otherwise) { return flag(name).value_or(otherwise); }
  std::int64_t integer(const char* name, std::int64_t otherwise, std::int64_t least, std::int64_t most,
                       const std::string& expected);
  float number(const char* name, float otherwise, const auto& holds, const char* expected) {
    const auto value = take(name);
    if (!value) return otherwise;
    const float number = value->is_number() ? value->template get<float>() : std::numeric_limits<float>::quiet_NaN();
    if (!std::isfinite(number) || !holds(number)) throw wrong_value(path(name), shown(*value), expected);
    return number;
  }
  /// What is left over must stand there with the value that changes nothing.
  void refuse_others() const;

  [[nodiscard]] static std::int64_t checked_integer(const nlohmann::json& value, const std::string& field,
                                                    std::int64_t least, std::int64_t most, const std::string& expected);

 private:
  nlohmann::json object_;
  std::string prefix_;
};

}  // namespace coterie
