// A model's config.json, read field by field with messages that a user can act on.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

/// A JSON object of a file. Every getter throws InputError (file, field, found, expected) when the field is missing or
/// of another kind; the ones with a fallback return it when the field is missing or null.
class ConfigFile {
 public:
  explicit ConfigFile(const std::filesystem::path& path);

  [[nodiscard]] std::string text(const std::string& field) const;
  /// From 1 to `most`: of things that memory is spent on before the checkpoint can show that there are fewer.
  [[nodiscard]] std::int64_t count(const std::string& field, std::int64_t most) const;
  /// Any 32-bit number from 1.
  [[nodiscard]] std::int64_t positive(const std::string& field) const;
  [[nodiscard]] std::int64_t positive(const std::string& field, std::int64_t fallback) const;
  [[nodiscard]] double number(const std::string& field) const;
  [[nodiscard]] double number(const std::string& field, double fallback) const;
  [[nodiscard]] bool flag(const std::string& field, bool fallback) const;
  [[nodiscard]] bool has(const std::string& field) const;  ///< present and not null
  /// An integer or a list of integers; empty when the field is missing or null.
  [[nodiscard]] std::vector<std::int32_t> integers(const std::string& field) const;
  /// A list of numbers.
  [[nodiscard]] std::vector<double> numbers(const std::string& field) const;
  /// The nested object of that name; its messages name the field as "outer.inner". Empty when missing or null.
  [[nodiscard]] std::optional<ConfigFile> object(const std::string& field) const;
  /// The names of all fields.
  [[nodiscard]] std::vector<std::string> fields() const;
  /// Throws InputError unless the field is missing, null or equal to `value`: for what a family does one way only.
  void expect(const std::string& field, const std::string& value) const;

  [[noreturn]] void fail(const std::string& field, const std::string& expected) const;

 private:
  ConfigFile(std::string where, std::string prefix, nlohmann::json fields)
      : where_(std::move(where)), prefix_(std::move(prefix)), fields_(std::move(fields)) {}
  [[nodiscard]] const nlohmann::json* find(const std::string& field) const;

  std::string where_;   ///< the file
  std::string prefix_;  ///< "" or "outer."
  nlohmann::json fields_;
};

}  // namespace coterie
