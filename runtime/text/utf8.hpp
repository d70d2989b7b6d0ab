// UTF-8: whole characters in bytes that may be cut or broken.
#pragma once

#include <cstddef>
#include <string>
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

/// The code point with which `text`, whole UTF-8 and not empty, begins.
[[nodiscard]] inline char32_t code_point(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<char32_t>(static_cast<unsigned char>(text[i])); };
  const char32_t lead = byte(0);
  if (lead < 0x80) return lead;
  if (lead < 0xE0) return (lead & 0x1F) << 6 | (byte(1) & 0x3F);
  if (lead < 0xF0) return (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
  return (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
}

[[nodiscard]] bool is_valid(std::string_view text) noexcept;
/// `text` with U+FFFD in place of each maximal part that is no character.
[[nodiscard]] std::string made_valid(std::string_view text);

/// Characters in text that is whole UTF-8.
[[nodiscard]] std::size_t count_characters(std::string_view text) noexcept;

}  // namespace coterie
