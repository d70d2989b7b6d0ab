// A model's config.json, read field by field with messages that a user can act on.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace coterie {

/// A JSON object of a file. Every getter throws InputError (file, field, found, expected) when the field is missing or
/// of another kind; the ones with a fallback return it when the field is missing or null. It remembers which fields
/// were asked for: what nobody asked for may mean something that nobody knows of.
class ConfigFile {
 public:
  explicit ConfigFile(const std::filesystem::path& path);

  [[nodiscard]] std::string text(const std::string& field) const;
  /// From 1 to `most`: of things that memory is spent on before the checkpoint can show that there are fewer.
  [[nodiscard]] std::int64_t count(const std::string& field, std::int64_t most) const;
  /// Any 32-bit number from 1.
  [[nodiscard]] std::int64_t positive(const std::string& field) const;
  [[nodiscard]] std::int64_t between(const std::string& field, std::int64_t least, std::int64_t most,
                                     std::int64_t fallback) const;
  [[nodiscard]] std::int64_t positive(const std::string& field, std::int64_t fallback) const;
  [[nodiscard]] double number(const std::string& field) const;
  [[nodiscard]] double number(const std::string& field, double fallback) const;
  /// Null is refused where the fallback is true: to programs in Python null is as good as false.
  [[nodiscard]] bool flag(const std::string& field, bool fallback) const;
  [[nodiscard]] bool has(const std::string& field) const;  ///< present and not null
  [[nodiscard]] bool is_list(const std::string& field) const;
  /// Which of two spellings the file has, the first when it has neither. Throws when it has both with other values.
  [[nodiscard]] std::string either(const std::string& field, const std::string& other) const;
  /// An integer or a list of integers; empty when the field is missing or null.
  [[nodiscard]] std::vector<std::int32_t> integers(const std::string& field) const;
  /// A list of numbers.
  [[nodiscard]] std::vector<double> numbers(const std::string& field) const;
  /// A list of strings; empty when the field is missing or null.
  [[nodiscard]] std::vector<std::string> texts(const std::string& field) const;
  /// The nested object of that name; its messages name the field as "outer.inner". Empty when missing or null.
  [[nodiscard]] std::optional<ConfigFile> object(const std::string& field) const;
  /// The same of an object that the file doesn't have: JSON text that stands for it.
  [[nodiscard]] ConfigFile object_of(const std::string& field, const std::string& text) const;
  /// The names of all fields; who takes the list looks after all of them.
  [[nodiscard]] std::vector<std::string> fields() const;
  /// Throws InputError unless the field is missing, null or equal to `value`: for what a family does one way only.
  void expect(const std::string& field, const std::string& value) const;
  void expect_flag(const std::string& field, bool value) const;

  /// These fields may have any value: it changes nothing that the model computes.
  void ignore(std::initializer_list<const char*> fields) const;
  /// Throws InputError for a field that was neither asked for nor ignored, also in nested objects that were asked for.
  /// Null, and what begins with an underscore (notes of the program that wrote the file), is passed over.
  void expect_no_more(const std::string& reader) const;

  [[noreturn]] void fail(const std::string& field, const std::string& expected) const;

 private:
  using Names = std::set<std::string>;

  ConfigFile(std::string where, std::string prefix, nlohmann::json fields, std::shared_ptr<Names> known)
      : where_(std::move(where)), prefix_(std::move(prefix)), fields_(std::move(fields)), known_(std::move(known)) {}
  [[nodiscard]] const nlohmann::json* find(const std::string& field) const;

  std::string where_;   ///< the file
  std::string prefix_;  ///< "" or "outer."
  nlohmann::json fields_;
  std::shared_ptr<Names> known_ = std::make_shared<Names>();  ///< with their prefixes; of the file
};

}  // namespace coterie
