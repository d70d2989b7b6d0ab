#include "runtime/text/utf8.hpp"

#include <algorithm>

namespace coterie {

Utf8Character first_character(std::string_view text) noexcept {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {Utf8Character::whole, 1};
  if (lead < 0xC2 || lead > 0xF4) return {Utf8Character::broken, 1};
  const std::size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == text.size()) return {Utf8Character::incomplete, i};
    // The second byte's range is narrower behind some leads, so that every code point has one form.
    const unsigned char lowest = i > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned char highest = i > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (byte(i) < lowest || byte(i) > highest) return {Utf8Character::broken, i};
  }
  return {Utf8Character::whole, length};
}

bool is_valid(std::string_view text) noexcept {
  while (!text.empty()) {
    const Utf8Character next = first_character(text);
    if (next.state != Utf8Character::whole) return false;
    text.remove_prefix(next.bytes);
  }
  return true;
}

std::string made_valid(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const Utf8Character next = first_character(text);
    valid += next.state == Utf8Character::whole ? text.substr(0, next.bytes) : "\uFFFD";
    text.remove_prefix(next.bytes);
  }
  return valid;
}

std::size_t count_characters(std::string_view text) noexcept {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace coterie
