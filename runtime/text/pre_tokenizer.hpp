// The pre-tokenizers of tokenizer.json files: how a text is split into the pieces that the model takes one by one.
#pragma once

#include "runtime/text/character_pattern.hpp"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace coterie {

/// Split, ByteLevel, Digits, Metaspace and sequences of them.
class PreTokenizer {
 public:
  /// `json` is the file's field `pre_tokenizer`, perhaps null: the text is one piece. Throws InputError for kinds,
  /// options and regular expressions that aren't known here.
  PreTokenizer(const nlohmann::json& json, const std::filesystem::path& file);

  /// Gives the pieces of `text` (whole UTF-8) to `take`, in order, none of them empty. `at_start`: the user's text
  /// begins here.
  void split(std::string_view text, bool at_start, const std::function<void(std::string_view)>& take) const;
  /// The model's tokens are bytes, spelled with one printable character for each (`bytes_spelled`).
  [[nodiscard]] bool byte_level() const noexcept { return byte_level_; }

 private:
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
  struct Split {
    std::size_t pattern;  ///< of patterns_
    Behavior behavior;
    bool invert;
  };
  struct PrefixSpace {};
  struct Metaspace {
    std::string replacement;
    enum class Prepend { always, first, never } prepend;
  };
  using Step = std::variant<Split, PrefixSpace, Metaspace>;
  struct Span {
    std::size_t begin, end;  ///< characters
  };
  struct Piece {
    Span span;
    bool match;
  };
  class Text;

  void add(const nlohmann::json& json, const std::string& field, const std::filesystem::path& file);
  void add_split(PatternParts pattern, Behavior behavior, bool invert);
  void compile(const std::filesystem::path& file);
  void apply(const Split& step, const Text& text, std::vector<Span>& spans) const;
  void merge(std::vector<Piece>& pieces, Behavior behavior, std::vector<Span>& spans) const;

  std::vector<Step> steps_;
  std::vector<PatternParts> parts_;
  std::vector<std::string> fields_;  ///< (patterns): where each stands
  std::optional<CharacterClasses> classes_;
  std::vector<CharacterPattern> patterns_;
  bool byte_level_ = false;
};

/// The bytes for which the characters of a byte-level token stand (GPT-2's `bytes_to_unicode`); none for a token with
/// another character.
[[nodiscard]] std::optional<std::string> bytes_spelled(std::string_view token);

}  // namespace coterie
