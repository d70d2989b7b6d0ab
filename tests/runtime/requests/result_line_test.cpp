#include "runtime/requests/result_line.hpp"

#include "tests/runtime/text/fake_tokenizer.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <limits>

namespace coterie {
namespace {

using Json = nlohmann::json;

const FakeTokenizer kTokenizer = FakeTokenizer::bytes_and({" the", " é", "END"});
constexpr std::int32_t kThe = 257, kE = 258, kStop = 259;

Completion completion() {
  Completion c;
  c.request.custom_id = "a";
  c.request.prompt = {0, kThe, kE};
  c.request.sampling.logprobs = -1;
  c.tokens = {kE, kThe};
  c.text = " é the";
  return c;
}

Json parsed(const Completion& c, const Tokenizer* tokenizer = &kTokenizer) {
  return Json::parse(completion_line(c, tokenizer, "model-name"));
}

Json choice(const Completion& c, const Tokenizer* tokenizer = &kTokenizer) {
  return parsed(c, tokenizer).at("response").at("body").at("choices").at(0);
}

TEST(ResultLine, IsABatchOutputLine) {
  const std::string line = completion_line(completion(), &kTokenizer, "model-name");
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(line,
            R"({"id":"batch_req_af63dc4c8601ec8c","custom_id":"a","response":{"status_code":200,)"
            R"("request_id":"req_af63dc4c8601ec8c","body":{"id":"cmpl-af63dc4c8601ec8c","object":"text_completion",)"
            R"("created":0,"model":"model-name","choices":[{"index":0,"text":" é the","logprobs":null,)"
            R"("finish_reason":"length","stop_reason":null}],)"
            R"("usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}},"error":null})");
}

TEST(ResultLine, SaysWhyItEnded) {
  Completion c = completion();
  c.finish_reason = FinishReason::stop;
  EXPECT_EQ(choice(c).at("finish_reason"), "stop");
  EXPECT_EQ(choice(c).at("stop_reason"), nullptr);
  c.stop_reason = std::string("END");
  EXPECT_EQ(choice(c).at("stop_reason"), "END");
  c.stop_reason = kStop;
  EXPECT_EQ(choice(c).at("stop_reason"), kStop);
}

TEST(ResultLine, TokenIdsAreThereWhenAskedForAndWithoutATokenizer) {
  Completion c = completion();
  EXPECT_FALSE(choice(c).contains("token_ids"));
  c.request.return_token_ids = true;
  EXPECT_EQ(choice(c).at("token_ids"), Json({kE, kThe}));
  EXPECT_EQ(choice(c).at("prompt_token_ids"), Json({0, kThe, kE}));
  c.request.return_token_ids = false;
  c.text.clear();
  EXPECT_EQ(choice(c, nullptr).at("token_ids"), Json({kE, kThe}));
  EXPECT_EQ(choice(c, nullptr).at("text"), "");
}

TEST(ResultLine, EchoPutsThePromptFirst) {
  Completion c = completion();
  c.request.echo = true;
  EXPECT_EQ(choice(c).at("text"), "the é é the") << "decoded: the prompt was token ids";
  c.request.prompt_text = "As it was written:";
  EXPECT_EQ(choice(c).at("text"), "As it was written: é the");
  EXPECT_EQ(choice(c, nullptr).at("token_ids").size(), 2U);
}

TEST(ResultLine, LogprobsGoByToken) {
  Completion c = completion();
  c.request.sampling.logprobs = 2;
  c.logprobs = {{-0.1F, {{kE, -0.1F}, {kThe, -2.5F}}},
                {-3.25F, {{FakeTokenizer::byte(0xE2), -0.5F}, {0, -std::numeric_limits<float>::infinity()}}}};
  const Json l = choice(c).at("logprobs");
  EXPECT_EQ(l.at("tokens"), Json({" é", " the"}));
  EXPECT_EQ(l.at("token_logprobs").dump(), "[-0.1,-3.25]") << "as short as a float is";
  EXPECT_EQ(l.at("top_logprobs").at(0), Json({{" é", -0.1}, {" the", -2.5}}));
  EXPECT_EQ(l.at("top_logprobs").at(1), Json({{"bytes:\\xe2", -0.5}, {"</s>", -9999.0}, {" the", -3.25}}))
      << "the chosen token is there too";
  EXPECT_EQ(l.at("text_offset"), Json({0, 2})) << "characters, not bytes";
}

TEST(ResultLine, AByteThatIsACharacterIsNamedByIt) {
  const auto tokenizer = FakeTokenizer::bytes_and({"A"});
  Completion c = completion();
  c.request.prompt = {0};
  c.request.sampling.logprobs = 2;
  c.tokens = {FakeTokenizer::byte('\n')};
  c.logprobs = {{-1, {{FakeTokenizer::text(0), -0.5F}, {FakeTokenizer::byte('A'), -0.75F}}}};
  const Json l = choice(c, &tokenizer).at("logprobs");
  EXPECT_EQ(l.at("tokens"), Json::array({"\n"}));
  EXPECT_EQ(l.at("top_logprobs").at(0), Json({{"A", -0.5}, {"\n", -1.0}})) << "of one name the likelier counts";
}

TEST(ResultLine, EchoedLogprobsBeginWithNull) {
  Completion c = completion();
  c.request.echo = true;
  c.request.sampling.logprobs = 0;
  c.prompt_logprobs = {{-1, {}}, {-2, {}}};
  c.logprobs = {{-3, {}}, {-4, {}}};
  const Json l = choice(c).at("logprobs");
  EXPECT_EQ(l.at("tokens"), Json({"</s>", " the", " é", " é", " the"}));
  EXPECT_EQ(l.at("token_logprobs"), Json({nullptr, -1.0, -2.0, -3.0, -4.0}));
  EXPECT_EQ(l.at("top_logprobs"), Json({nullptr, Json::object(), Json::object(), Json::object(), Json::object()}));
  EXPECT_EQ(l.at("text_offset"), Json({0, 0, 3, 5, 7}));
}

TEST(ResultLine, OffsetsStayInsideATextThatWasCut) {
  Completion c = completion();
  c.request.sampling.logprobs = 0;
  c.tokens = {kThe, kStop, kThe};
  c.text = " th";
  c.logprobs = {{-1, {}}, {-1, {}}, {-1, {}}};
  EXPECT_EQ(choice(c).at("logprobs").at("text_offset"), Json({0, 3, 3}));
}

TEST(ResultLine, TokensOfSeveralBytesAreNamedByTheirTextOrAllTheirBytes) {
  using Kind = Tokenizer::PieceKind;
  const auto tokenizer = FakeTokenizer::with({{Kind::control, "</s>"}, {Kind::byte, " é"}, {Kind::byte, "\xE6\xBC"}},
                                             {Tokenizer::LeadingSpace::keep, Tokenizer::BrokenBytes::subpart, true});
  Completion c = completion();
  c.request.prompt = {0};
  c.tokens = {1, 2};
  c.request.sampling.logprobs = 0;
  c.logprobs = {{-1, {}}, {-1, {}}};
  EXPECT_EQ(choice(c, &tokenizer).at("logprobs").at("tokens"), (Json{" é", R"(bytes:\xe6\xbc)"}));
}

TEST(ResultLine, WithoutATokenizerTokensAreNamedByTheirIds) {
  Completion c = completion();
  c.text.clear();
  c.request.sampling.logprobs = 1;
  c.logprobs = {{-1, {{7, -0.5F}}}, {-1, {{8, -0.5F}}}};
  const Json l = choice(c, nullptr).at("logprobs");
  EXPECT_EQ(l.at("tokens"), Json({"token_id:258", "token_id:257"}));
  EXPECT_EQ(l.at("top_logprobs").at(0), Json({{"token_id:7", -0.5}, {"token_id:258", -1.0}}));
  EXPECT_EQ(l.at("text_offset"), Json({0, 0}));
}

TEST(ResultLine, AnErrorKeepsTheLineNumber) {
  EXPECT_EQ(error_line({"a", 7, "invalid_value", "line 7: no"}), error_line({"a", 7, "invalid_value", "line 7: no"}));
  const Json e = Json::parse(error_line({"a", 7, "invalid_value", "line 7: no"}));
  EXPECT_EQ(e.at("custom_id"), "a");
  EXPECT_EQ(e.at("response"), nullptr);
  EXPECT_EQ(e.at("error"), Json({{"code", "invalid_value"}, {"message", "line 7: no"}, {"line", 7}}));
  EXPECT_EQ(Json::parse(error_line({"", 7, "c", "m"})).at("custom_id"), nullptr);
  EXPECT_NE(Json::parse(error_line({"", 7, "c", "m"})).at("id"), Json::parse(error_line({"", 8, "c", "m"})).at("id"));
}

TEST(ResultLine, BytesThatAreNoTextDoNotBreakTheLine) {
  EXPECT_EQ(Json::parse(error_line({"", 1, "c", "found \xFF"})).at("error").at("message"), "found \uFFFD");
}

TEST(ResultLine, AConversationIsAnsweredWithAMessage) {
  Completion c = completion();
  c.request.chat = true;
  const Json body = parsed(c).at("response").at("body");
  EXPECT_EQ(body.at("object"), "chat.completion");
  EXPECT_EQ(body.at("id"), "chatcmpl-af63dc4c8601ec8c");
  EXPECT_EQ(body.at("usage").at("total_tokens"), 5);
  EXPECT_EQ(choice(c).at("message"), Json({{"role", "assistant"}, {"content", " é the"}}));
  EXPECT_EQ(choice(c).at("logprobs"), nullptr);
  EXPECT_FALSE(choice(c).contains("text"));
}

TEST(ResultLine, LogprobsOfAConversationAreByToken) {
  Completion c = completion();
  c.request.chat = true;
  c.request.sampling.logprobs = 2;
  c.tokens = {kThe, 0};
  c.logprobs = {{-0.5F, {{kThe, -0.5F}, {FakeTokenizer::byte(0xE2), -2}}}, {-1, {}}};
  EXPECT_EQ(choice(c).at("logprobs"), Json::parse(R"({"content": [
      {"token": " the", "logprob": -0.5, "bytes": [32, 116, 104, 101], "top_logprobs": [
        {"token": " the", "logprob": -0.5, "bytes": [32, 116, 104, 101]},
        {"token": "bytes:\\xe2", "logprob": -2.0, "bytes": [226]}]},
      {"token": "</s>", "logprob": -1.0, "bytes": null, "top_logprobs": []}]})"));
}

}  // namespace
}  // namespace coterie
