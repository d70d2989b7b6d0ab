#include "runtime/text/text_decoder.hpp"

#include "tests/runtime/text/fake_tokenizer.hpp"

#include <gtest/gtest.h>

namespace coterie {
namespace {

using Space = Tokenizer::LeadingSpace;
using Broken = Tokenizer::BrokenBytes;
using Kind = Tokenizer::PieceKind;

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

TEST(TextDecoder, ARunWithABrokenByteIsReplacedAsAWhole) {
  const auto tokenizer = FakeTokenizer::with(
      {{Kind::control, "</s>"}, {Kind::byte, "\n"}, {Kind::byte, "\xC3"}, {Kind::byte, "\xA9"}, {Kind::text, " x"}},
      {Space::drop_one, Broken::run, true});
  const auto text = [&](const std::vector<std::int32_t>& tokens) { return decode(tokenizer, tokens); };
  EXPECT_EQ(text({1, 2, 3, 4}), "\né x");
  EXPECT_EQ(text({1, 2, 0, 3, 4}), "\né x") << "a special token is not there at all";
  EXPECT_EQ(text({1, 2, 4, 3}), "\uFFFD\uFFFD x\uFFFD");
  EXPECT_EQ(text({4, 1, 3, 1}), "x\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(text({0, 4, 4}), "x x");
  EXPECT_EQ(text({1, 2}), "\uFFFD\uFFFD");
}

TEST(TextDecoder, WhatIsPendingIsThereUntilTheRunBreaks) {
  const auto tokenizer = FakeTokenizer::with({{Kind::byte, "\n"}, {Kind::byte, "\xC3"}, {Kind::byte, "\xA9"}},
                                             {Space::keep, Broken::run, true});
  TextDecoder decoder(tokenizer);
  EXPECT_EQ(decoder.add(0), "");
  EXPECT_EQ(decoder.pending(), "\n");
  EXPECT_EQ(decoder.add(1), "");
  EXPECT_EQ(decoder.pending(), "\n") << "without the half character";
  EXPECT_EQ(decoder.settle(), "\n");
  EXPECT_EQ(decoder.pending(), "");
  EXPECT_EQ(decoder.add(2), "");
  EXPECT_EQ(decoder.pending(), "é");
  EXPECT_EQ(decoder.add(2), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(decoder.add(0), "\uFFFD");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(TextDecoder, AMaximalSubpartIsOneReplacement) {
  const auto tokenizer = FakeTokenizer::with(
      {{Kind::control, "</s>"}, {Kind::byte, "a\xF0\x9F"}, {Kind::byte, "\x98\x80z"}, {Kind::byte, "b"}},
      {Space::keep, Broken::subpart, true});
  EXPECT_EQ(decode(tokenizer, std::vector<std::int32_t>{1, 0, 2}), "a😀z");
  EXPECT_EQ(decode(tokenizer, std::vector<std::int32_t>{1, 3, 2, 1}), "a\uFFFDb\uFFFD\uFFFDza\uFFFD");
}

TEST(TextDecoder, SpecialTokensHaveNamesWhereTheyAreNotSkipped) {
  const std::vector<Tokenizer::Piece> pieces{{Kind::control, "</s>"}, {Kind::byte, "\xC3"}, {Kind::byte, "\xA9"}};
  const auto text = [](const FakeTokenizer& tokenizer, const std::vector<std::int32_t>& tokens) {
    TextDecoder decoder(tokenizer, false);
    std::string all;
    for (const std::int32_t token : tokens) all += decoder.add(token);
    return all + decoder.finish();
  };
  const auto subparts = FakeTokenizer::with(pieces, {Space::keep, Broken::subpart, true});
  EXPECT_EQ(text(subparts, {0, 1, 2, 0, 1, 0, 99}), "</s>é</s>\uFFFD</s>");
  const auto words =
      FakeTokenizer::with({{Kind::control, "<s>"}, {Kind::text, " a"}}, {Space::drop_one, Broken::run, true});
  EXPECT_EQ(text(words, {0, 1, 0}), "<s> a<s>");
}

TEST(TextDecoder, TheFirstPieceMayLoseAllItsSpaces) {
  const auto tokenizer = FakeTokenizer::with({{Kind::control, "</s>"}, {Kind::text, " a b"}},
                                             {Space::drop_in_first_piece, Broken::run, true});
  EXPECT_EQ(decode(tokenizer, std::vector<std::int32_t>{0, 1, 1}), "ab a b");
}

TEST(TextDecoder, ControlsAndUnknownIdsAreNoText) {
  const auto tokenizer = FakeTokenizer::bytes_and({"x"});
  EXPECT_EQ(decode(tokenizer, std::vector<std::int32_t>{0, 257, 0, -1, 1'000'000, 257}), "xx");
}

}  // namespace
}  // namespace coterie
