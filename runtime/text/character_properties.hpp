// What kind of character a code point is, as HF `tokenizers` sees it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace coterie {

/// A set of properties, one bit each: the general categories (Lu is 1, Ll 2, ...), and what else is asked for.
using CharacterProperties = std::uint64_t;

/// The set of a name such as "L", "Lu", "Han", or "s" and "w" of the regular expressions' \s and \w. Numeric and
/// JoinsWord (what a token that is a word of its own must not stand beside) are properties here too. None for others.
[[nodiscard]] std::optional<CharacterProperties> character_properties(std::string_view name) noexcept;

/// The table behind it, which scripts/generate_character_data writes.
struct CharacterData {
  std::span<const CharacterProperties> classes;
  std::span<const std::uint32_t> ranges;  ///< first code point * 64 + class; a range goes up to the next one's first
  /// First and last code points that later Unicode versions normalize, and HF does not.
  std::span<const std::pair<char32_t, char32_t>> never_normalized;
};
[[nodiscard]] const CharacterData& character_data() noexcept;

/// The properties that one code point has.
[[nodiscard]] CharacterProperties properties_of(char32_t code_point) noexcept;

}  // namespace coterie
