#include "runtime/text/utf8.hpp"

#include <gtest/gtest.h>

#include <string>

namespace coterie {
namespace {

std::string encoded(std::uint32_t c) {
  const auto byte = [](std::uint32_t b) { return static_cast<char>(b); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xC0 | c >> 6), byte(0x80 | (c & 63))};
  if (c < 0x10000) return {byte(0xE0 | c >> 12), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63))};
  return {byte(0xF0 | c >> 18), byte(0x80 | (c >> 12 & 63)), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63))};
}

TEST(Utf8, EveryCodePointIsWholeAndItsBeginningsIncomplete) {
  for (std::uint32_t c = 0; c <= 0x10FFFF; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    const std::string text = encoded(c);
    const Utf8Character character = first_character(text + "x");
    ASSERT_EQ(character.state, Utf8Character::whole) << c;
    ASSERT_EQ(character.bytes, text.size()) << c;
    for (std::size_t size = 1; size < text.size(); ++size) {
      ASSERT_EQ(first_character(text.substr(0, size)).state, Utf8Character::incomplete) << c;
    }
  }
}

TEST(Utf8, WhatIsNoCharacterIsBroken) {
  for (const std::string text :
       {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xED\xBF\xBF",
        "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFF", "\xC3(", "\xE2\x82("}) {
    EXPECT_EQ(first_character(text).state, Utf8Character::broken) << testing::PrintToString(text);
  }
}

TEST(Utf8, CountsCharactersNotBytes) {
  EXPECT_EQ(count_characters(""), 0U);
  EXPECT_EQ(count_characters("aé€𝄞"), 4U);
}

}  // namespace
}  // namespace coterie
