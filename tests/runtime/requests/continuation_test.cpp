#include "runtime/requests/continuation.hpp"

#include "placement/files/safetensors.hpp"
#include "tests/runtime/text/fake_tokenizer.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace coterie {
namespace {

constexpr std::int32_t kEnd = 0;  // of FakeTokenizer

Request request_with(int max_tokens, std::vector<std::string> stop = {}) {
  Request r;
  r.custom_id = "a";
  r.prompt = {FakeTokenizer::byte('p')};
  r.max_tokens = max_tokens;
  r.stop = std::move(stop);
  return r;
}

/// Feeds tokens until it is finished; checks that it doesn't finish early by itself.
Completion complete(Request request, const Tokenizer* tokenizer, const std::vector<std::int32_t>& tokens) {
  Continuation c(std::move(request), tokenizer, std::vector<std::int32_t>{kEnd});
  for (const std::int32_t token : tokens) {
    if (c.finished()) break;
    c.add({token, {}});
  }
  EXPECT_TRUE(c.finished());
  return c.finish();
}

std::vector<std::int32_t> spelled(const std::string& text) {
  std::vector<std::int32_t> tokens;
  for (const char c : text) tokens.push_back(FakeTokenizer::byte(static_cast<unsigned char>(c)));
  return tokens;
}

const FakeTokenizer kBytes = FakeTokenizer::bytes_and({" hello", "END of", "E", "\n\nE", " a"});

TEST(Continuation, EndsAtItsLength) {
  const Completion c = complete(request_with(3), &kBytes, spelled("abcdef"));
  EXPECT_EQ(c.text, "abc");
  EXPECT_EQ(c.tokens.size(), 3U);
  EXPECT_EQ(c.finish_reason, FinishReason::length);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(c.stop_reason));
}

TEST(Continuation, OfNoTokensIsFinishedAtOnce) {
  Continuation c(request_with(0), &kBytes, {});
  EXPECT_TRUE(c.finished());
  EXPECT_EQ(c.finish().finish_reason, FinishReason::length);
}

TEST(Continuation, EndsAtTheEndOfSequenceUnlessItIsIgnored) {
  auto tokens = spelled("ab");
  tokens.push_back(kEnd);
  for (const std::int32_t t : spelled("cd")) tokens.push_back(t);
  Completion c = complete(request_with(5), &kBytes, tokens);
  EXPECT_EQ(c.text, "ab");
  EXPECT_EQ(c.tokens.size(), 3U) << "the end of sequence is one of the tokens";
  EXPECT_EQ(c.finish_reason, FinishReason::stop);
  EXPECT_TRUE(std::holds_alternative<std::monostate>(c.stop_reason));

  Request ignoring = request_with(5);
  ignoring.ignore_eos = true;
  c = complete(ignoring, &kBytes, tokens);
  EXPECT_EQ(c.text, "abcd");
  EXPECT_EQ(c.finish_reason, FinishReason::length);
}

TEST(Continuation, EndsAtAStopToken) {
  Request r = request_with(5);
  r.stop_token_ids = {FakeTokenizer::byte('x'), FakeTokenizer::byte('c')};
  Completion c = complete(r, &kBytes, spelled("abcde"));
  EXPECT_EQ(c.text, "ab");
  EXPECT_EQ(c.tokens, spelled("abc"));
  EXPECT_EQ(c.finish_reason, FinishReason::stop);
  EXPECT_EQ(std::get<std::int32_t>(c.stop_reason), FakeTokenizer::byte('c'));

  r.include_stop_str_in_output = true;
  EXPECT_EQ(complete(r, &kBytes, spelled("abcde")).text, "abc");
}

TEST(Continuation, EndsAtAStopStringThatSeveralTokensMake) {
  Request r = request_with(20, {"END"});
  Completion c = complete(r, &kBytes, spelled("abENEND tail"));
  EXPECT_EQ(c.text, "abEN");
  EXPECT_EQ(c.tokens, spelled("abENEND"));
  EXPECT_EQ(c.finish_reason, FinishReason::stop);
  EXPECT_EQ(std::get<std::string>(c.stop_reason), "END");

  r.include_stop_str_in_output = true;
  EXPECT_EQ(complete(r, &kBytes, spelled("abENEND tail")).text, "abENEND");
}

TEST(Continuation, CutsInsideAToken) {
  const Completion c = complete(request_with(20, {"D o"}), &kBytes,
                                {FakeTokenizer::byte('-'), FakeTokenizer::text(1), FakeTokenizer::text(0)});
  EXPECT_EQ(c.text, "-EN");
  EXPECT_EQ(c.tokens.size(), 2U);
}

TEST(Continuation, OfSeveralStopStringsTheOneThatBeginsFirstCuts) {
  const Completion c = complete(request_with(20, {"E", "\n", "\n\n"}), &kBytes, {FakeTokenizer::text(3)});
  EXPECT_EQ(c.text, "");
  EXPECT_EQ(std::get<std::string>(c.stop_reason), "\n");
}

TEST(Continuation, TheLastTokenMayCompleteAStopString) {
  const Completion c = complete(request_with(3, {"bc"}), &kBytes, spelled("abc"));
  EXPECT_EQ(c.text, "a");
  EXPECT_EQ(c.finish_reason, FinishReason::stop);
}

TEST(Continuation, ThePromptIsNotSearched) {
  const Completion c = complete(request_with(3, {"p", "pa"}), &kBytes, spelled("abc"));
  EXPECT_EQ(c.text, "abc");
}

TEST(Continuation, AStopStringOfSeveralBytesIsFoundWhenItsCharacterIsWhole) {
  const Completion c = complete(request_with(20, {"€"}), &kBytes, spelled("a€b"));
  EXPECT_EQ(c.text, "a");
  EXPECT_EQ(c.tokens.size(), 4U);
}

TEST(Continuation, BytesThatNeverBecomeACharacterShowAtTheEnd) {
  EXPECT_EQ(complete(request_with(2), &kBytes, spelled("a\xE2")).text, "a\uFFFD");
}

TEST(Continuation, GoesOnWhereThePromptEnds) {
  Request r = request_with(1);
  EXPECT_EQ(complete(r, &kBytes, {FakeTokenizer::text(4)}).text, " a");
  r.prompt = {kEnd};  // no text before: the tokenizer's first space is dropped, as it is when the whole is decoded
  EXPECT_EQ(complete(r, &kBytes, {FakeTokenizer::text(4)}).text, "a");
  r.prompt = spelled("x\xE2\x82");  // the prompt ends inside a character
  EXPECT_EQ(complete(r, &kBytes, spelled("\xAC")).text, "€");
}

TEST(Continuation, AStopStringOfBytesCountsBeforeTheirRunEnds) {
  const auto runs = FakeTokenizer::with({{Tokenizer::PieceKind::control, "</s>"},
                                         {Tokenizer::PieceKind::byte, "\n"},
                                         {Tokenizer::PieceKind::byte, "\xC3"},
                                         {Tokenizer::PieceKind::text, "x"}},
                                        {Tokenizer::LeadingSpace::keep, Tokenizer::BrokenBytes::run, true});
  Request r = request_with(20, {"\n\n"});
  r.prompt = {1};
  const Completion c = complete(r, &runs, {3, 1, 1, 3});
  EXPECT_EQ(c.text, "x");
  EXPECT_EQ(c.tokens.size(), 3U);
  r.stop = {};
  r.max_tokens = 3;
  EXPECT_EQ(complete(r, &runs, {1, 1, 2}).text, "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(complete(r, &runs, {1, 3, 1}).text, "\nx\n") << "the prompt's own line is not repeated";
}

TEST(Continuation, WithoutATokenizerThereAreTokensOnly) {
  const Completion c = complete(request_with(2), nullptr, {5, 6, 7});
  EXPECT_EQ(c.text, "");
  EXPECT_EQ(c.tokens, (std::vector<std::int32_t>{5, 6}));
}

TEST(Continuation, KeepsLogprobsOnlyWhereAsked) {
  Request r = request_with(1);
  EXPECT_TRUE(complete(r, &kBytes, {5}).logprobs.empty());
  r.sampling.logprobs = 0;
  EXPECT_EQ(complete(r, &kBytes, {5}).logprobs.size(), 1U);
}

/// Whatever the tokens: cutting as they come equals looking at the whole text afterwards.
TEST(Continuation, StopsWhereTheWholeTextHasItsFirstStopString) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::int32_t> tokens;
    std::string text;
    TextDecoder decoder(kBytes);
    static_cast<void>(decoder.add(FakeTokenizer::byte('p')));
    for (int i = 0; i < 24; ++i) {
      tokens.push_back(FakeTokenizer::byte(static_cast<unsigned char>('a' + random() % 3)));
      text += decoder.add(tokens.back());
    }
    std::vector<std::string> stops;
    for (std::uint32_t n = random() % 3; n > 0; --n) {
      std::string stop;
      for (std::uint32_t length = 1 + random() % 5; length > 0; --length) stop += static_cast<char>('a' + random() % 3);
      stops.push_back(stop);
    }
    // One character a token: the first stop string to be complete ends it, cut where the longest such began.
    std::size_t end = text.size(), cut = text.size();
    for (std::size_t size = 1; size <= text.size() && end == text.size() && cut == text.size(); ++size) {
      for (const std::string& stop : stops) {
        if (size >= stop.size() && text.compare(size - stop.size(), stop.size(), stop) == 0) {
          end = size;
          cut = std::min(cut, size - stop.size());
        }
      }
    }
    const Completion c = complete(request_with(24, stops), &kBytes, tokens);
    ASSERT_EQ(c.text, text.substr(0, cut)) << "round " << round;
    ASSERT_EQ(c.tokens.size(), end);
  }
}

TEST(Continuation, HasTheReferenceText) {
  for (const char* model : {"top1", "top2"}) {
    const auto folder = std::filesystem::path(COTERIE_FIXTURES) / "models/trained" / model;
    const auto tokenizer = load_tokenizer(folder);
    const SafetensorsFile reference(folder / "reference.safetensors");
    const auto ids = [&](const std::string& name) {
      const auto bytes = reference.at(name).bytes;
      std::vector<std::int64_t> wide(bytes.size() / sizeof(std::int64_t));
      std::memcpy(wide.data(), bytes.data(), bytes.size());
      return std::vector<std::int32_t>(wide.begin(), wide.end());
    };
    for (int i = 0; i < 8; ++i) {
      Request r = request_with(48);
      r.ignore_eos = true;
      r.prompt = ids("prompt_" + std::to_string(i));
      const Completion c = complete(r, tokenizer.get(), ids("greedy_" + std::to_string(i)));
      EXPECT_EQ(c.text, reference.metadata().at("greedy_text_" + std::to_string(i)));
    }
  }
}

}  // namespace
}  // namespace coterie
