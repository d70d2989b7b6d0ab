// Regular expressions of tokenizer.json files, taken apart into structure and sets of characters.
#pragma once

#include "runtime/text/character_properties.hpp"

#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace coterie {

/// A set of characters, as `[...]`, `\p{L}` or a single character describe it.
struct CharacterSet {
  std::vector<std::pair<char32_t, char32_t>> ranges;  ///< first and last
  CharacterProperties properties = 0;                 ///< or any of them
  std::vector<CharacterSet> sets;                     ///< or in any of these
  std::vector<CharacterSet> limits;                   ///< and in all of these
  bool negated = false;

  [[nodiscard]] bool contains(char32_t c, CharacterProperties of_c) const noexcept;
};

/// Structure as it stands in the expression (and as PCRE2 reads it), and sets of characters.
using PatternParts = std::vector<std::variant<std::string, CharacterSet>>;

/// `regex` is in Oniguruma's syntax, which HF `tokenizers` uses. Throws std::invalid_argument, which names the
/// construct, for what is not known here or would match otherwise in PCRE2: back references, look-behind, `^`, `\b`,
/// names that are no property, letters without regard to case where more than one character could match two of them.
[[nodiscard]] PatternParts parse_pattern(std::string_view regex);

/// A pattern that matches `text` and nothing else.
[[nodiscard]] PatternParts literal_pattern(std::string_view text);

}  // namespace coterie
