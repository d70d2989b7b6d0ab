// UTF-8: whole characters in bytes that may be cut or broken.
#pragma once

#include <cstddef>
#include <string_view>

namespace coterie {

struct Utf8Character {
  enum State { whole, incomplete, broken };
  State state = broken;
  std::size_t bytes = 1;  ///< of the character, or as many of them as could still have become one
};

/// What `text` (not empty) begins with. Incomplete: its bytes end before the character does, and more may make it
/// whole. Surrogates, overlong forms and code points past U+10FFFF are broken (Unicode 15, table 3-7).
[[nodiscard]] Utf8Character first_character(std::string_view text) noexcept;

/// Characters in text that is whole UTF-8.
[[nodiscard]] std::size_t count_characters(std::string_view text) noexcept;

}  // namespace coterie
