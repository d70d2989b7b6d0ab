// The normalizers of tokenizer.json files: what is done to a text before it is split.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace coterie {

/// NFC, NFD, NFKC, NFKD, Prepend, Replace (of a string) and sequences of them.
class Normalizer {
 public:
  /// Changes nothing.
  Normalizer() = default;
  /// `json` is the file's field `normalizer`, perhaps null. Throws InputError for kinds that aren't known here.
  Normalizer(const nlohmann::json& json, const std::filesystem::path& file);

  /// `text` is whole UTF-8.
  [[nodiscard]] std::string apply(std::string text) const;

 private:
  struct Prepend {
    std::string text;
  };
  struct Replace {
    std::string from, to;
  };
  struct UnicodeForm {
    int options;  ///< utf8proc's
  };
  using Step = std::variant<Prepend, Replace, UnicodeForm>;

  void add(const nlohmann::json& json, const std::string& field, const std::filesystem::path& file);

  std::vector<Step> steps_;
};

}  // namespace coterie
