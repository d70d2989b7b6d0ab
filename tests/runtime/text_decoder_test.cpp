#include "runtime/text_decoder.hpp"

#include "tests/runtime/fake_tokenizer.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

using Space = Tokenizer::LeadingSpace;

TEST(TextDecoder, GivesACharacterWhenItIsWhole) {
  const auto tokenizer = FakeTokenizer::bytes_and({"x"});
  TextDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.add(FakeTokenizer::byte(0xE2)), "");
  EXPECT_EQ(decoder.add(FakeTokenizer::byte(0x82)), "");
  EXPECT_EQ(decoder.add(FakeTokenizer::byte(0xAC)), "€");
  EXPECT_EQ(decoder.add(FakeTokenizer::byte('a')), "a");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(TextDecoder, EachByteThatMakesNoCharacterIsOneReplacement) {
  const auto tokenizer = FakeTokenizer::bytes_and({"x"});
  TextDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.add(FakeTokenizer::byte(0xE2)), "");
  EXPECT_EQ(decoder.add(FakeTokenizer::byte(0x82)), "");
  EXPECT_EQ(decoder.add(FakeTokenizer::text(0)), "\uFFFD\uFFFDx");
  EXPECT_EQ(decoder.add(FakeTokenizer::byte(0xFF)), "\uFFFD");
  EXPECT_EQ(decoder.add(FakeTokenizer::byte(0xC3)), "");
  EXPECT_EQ(decoder.add(FakeTokenizer::byte('a')), "\uFFFDa");
  EXPECT_EQ(decoder.add(FakeTokenizer::byte(0xF0)), "");
  EXPECT_EQ(decoder.finish(), "\uFFFD");
}

TEST(TextDecoder, TheFirstSpaceOfASequenceIsNotText) {
  const std::vector<std::string> texts{" a", " ", "b"};
  const std::vector<std::int32_t> two_spaces{0, FakeTokenizer::text(1), FakeTokenizer::text(0), FakeTokenizer::text(0)};
  EXPECT_EQ(decode(FakeTokenizer::bytes_and(texts, Space::keep), two_spaces), "  a a");
  EXPECT_EQ(decode(FakeTokenizer::bytes_and(texts, Space::drop_one), two_spaces), " a a");
  EXPECT_EQ(decode(FakeTokenizer::bytes_and(texts, Space::drop_all), two_spaces), "a a");
  const std::vector<std::int32_t> no_space{FakeTokenizer::text(2), FakeTokenizer::text(0)};
  EXPECT_EQ(decode(FakeTokenizer::bytes_and(texts, Space::drop_all), no_space), "b a");
}

TEST(TextDecoder, ControlsAndUnknownIdsAreNoText) {
  const auto tokenizer = FakeTokenizer::bytes_and({"x"});
  EXPECT_EQ(decode(tokenizer, std::vector<std::int32_t>{0, 257, 0, -1, 1'000'000, 257}), "xx");
}

}  // namespace
}  // namespace coterie
