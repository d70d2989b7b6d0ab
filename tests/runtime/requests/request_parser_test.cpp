#include "runtime/requests/request_parser.hpp"

#include "placement/input_error.hpp"
#include "tests/runtime/text/fake_tokenizer.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace coterie {
namespace {

const FakeTokenizer kTokenizer = FakeTokenizer::bytes_and({"x"});

RequestRules rules(const Tokenizer* tokenizer = &kTokenizer) {
  return {257, 64, tokenizer, 99};
}

/// A line with this body.
std::string line(const std::string& body) {
  return R"({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": )" + body + "}";
}

Request good(const std::string& text, const RequestRules& r = rules()) {
  const RequestOrError parsed = parse_request(text, 5, r);
  if (const auto* error = std::get_if<RequestError>(&parsed)) {
    ADD_FAILURE() << text << "\n" << error->message;
    return {};
  }
  return std::get<Request>(parsed);
}

RequestError bad(const std::string& text, const RequestRules& r = rules()) {
  const RequestOrError parsed = parse_request(text, 5, r);
  if (std::holds_alternative<Request>(parsed)) {
    ADD_FAILURE() << "accepted " << text;
    return {};
  }
  const auto& error = std::get<RequestError>(parsed);
  EXPECT_EQ(error.line, 5);
  EXPECT_EQ(error.message.find("line 5: "), 0U) << error.message;
  return error;
}

TEST(RequestParser, ABodyNeedsAPromptOnly) {
  const Request r = good(line(R"({"prompt": [3, 4]})"));
  EXPECT_EQ(r.custom_id, "a");
  EXPECT_EQ(r.line, 5);
  EXPECT_EQ(r.prompt, (std::vector<std::int32_t>{3, 4}));
  EXPECT_EQ(r.max_tokens, 16);
  EXPECT_EQ(r.sampling.temperature, 1);
  EXPECT_EQ(r.sampling.top_k, 0);
  EXPECT_EQ(r.sampling.top_p, 1);
  EXPECT_EQ(r.sampling.seed, 99U) << "the job's";
  EXPECT_EQ(r.sampling.logprobs, -1);
  EXPECT_TRUE(r.stop.empty() && r.stop_token_ids.empty());
  EXPECT_FALSE(r.ignore_eos || r.echo || r.return_token_ids || r.include_stop_str_in_output);
}

TEST(RequestParser, TakesEveryParameter) {
  const Request r =
      good(line(R"({"prompt": "hé", "model": "any", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40,
    "seed": -1, "stop": ["\n", "END"], "stop_token_ids": [2], "logprobs": 5, "echo": true, "ignore_eos": true,
    "return_token_ids": true, "include_stop_str_in_output": true, "skip_special_tokens": false, "user": "u", "metadata": {"a": 1}})"));
  EXPECT_EQ(r.prompt, kTokenizer.encode("hé"));
  EXPECT_EQ(r.prompt_text, "hé");
  EXPECT_EQ(r.max_tokens, 7);
  EXPECT_EQ(r.sampling.temperature, 0.5F);
  EXPECT_EQ(r.sampling.top_p, 0.9F);
  EXPECT_EQ(r.sampling.top_k, 40);
  EXPECT_EQ(r.sampling.seed, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(r.sampling.logprobs, 5);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"\n", "END"}));
  EXPECT_EQ(r.stop_token_ids, std::vector<std::int32_t>{2});
  EXPECT_FALSE(r.skip_special_tokens);
  EXPECT_TRUE(r.ignore_eos && r.echo && r.return_token_ids && r.include_stop_str_in_output);
}

TEST(RequestParser, NullIsAsGoodAsAbsent) {
  const Request r = good(line(R"({"prompt": [1], "max_tokens": null, "temperature": null, "seed": null, "stop": null,
    "logprobs": null, "logit_bias": null, "echo": null, "frobnicate": null})"));
  EXPECT_EQ(r.max_tokens, 16);
  EXPECT_EQ(r.sampling.seed, 99U);
}

TEST(RequestParser, PromptsHaveManyForms) {
  EXPECT_EQ(good(line(R"({"prompt": ["hi"]})")).prompt, kTokenizer.encode("hi"));
  EXPECT_EQ(good(line(R"({"prompt": [[7, 8]]})")).prompt, (std::vector<std::int32_t>{7, 8}));
  EXPECT_EQ(good(line(R"({"prompt": ""})")).prompt, std::vector<std::int32_t>{0}) << "the begin of the sequence";
  EXPECT_EQ(good(line(R"({"prompt": "hi", "add_special_tokens": false})")).prompt,
            kTokenizer.encode("hi", {.add_special_tokens = false}));
  EXPECT_EQ(good(line(R"({"prompt": [0, 256]})"), rules(nullptr)).prompt, (std::vector<std::int32_t>{0, 256}));
}

TEST(RequestParser, SpecialTokensInAPromptAreObeyedOnlyWhereAsked) {
  EXPECT_EQ(good(line(R"({"prompt": "</s>"})")).prompt, kTokenizer.encode("</s>"));
  EXPECT_EQ(good(line(R"({"prompt": "</s>"})")).prompt.size(), 5U);
  EXPECT_EQ(good(line(R"({"prompt": "</s>", "split_special_tokens": false})")).prompt,
            (std::vector<std::int32_t>{0, 0}));
}

TEST(RequestParser, LimitsAreInclusive) {
  EXPECT_EQ(good(line(R"({"prompt": [1, 2, 3, 4], "max_tokens": 60})")).max_tokens, 60);
  EXPECT_EQ(good(line(R"({"prompt": [1], "max_tokens": 0, "echo": true})")).max_tokens, 0);
  EXPECT_EQ(good(line(R"({"prompt": [1], "top_p": 1, "temperature": 0, "top_k": -1, "logprobs": 0})")).sampling.top_k,
            0);
}

TEST(RequestParser, ParametersThatChangeNothingAreFine) {
  for (const char* parameter :
       {R"("n": 1)", R"("best_of": 1)", R"("stream": false)", R"("presence_penalty": 0)", R"("frequency_penalty": 0.0)",
        R"("repetition_penalty": 1.0)", R"("logit_bias": {})", R"("min_p": 0)", R"("suffix": "")", R"("user": "me")",
        R"("model": 3)", R"("use_beam_search": false)", R"("skip_special_tokens": true)"}) {
    good(line(R"({"prompt": [1], )" + std::string(parameter) + "}"));
  }
}

TEST(RequestParser, ParametersThatWouldChangeSomethingAreNamed) {
  for (const auto& [name, value] : std::initializer_list<std::pair<std::string, std::string>>{
           {"n", "2"},
           {"stream", "true"},
           {"presence_penalty", "0.5"},
           {"logit_bias", R"({"5": 1})"},
           {"best_of", "2"},
           {"suffix", R"("x")"},
           {"guided_json", "{}"},
           {"tempreature", "1"},
       }) {
    const RequestError e = bad(line(R"({"prompt": [1], ")" + name + "\": " + value + "}"));
    EXPECT_EQ(e.code, "unsupported_parameter");
    EXPECT_EQ(e.custom_id, "a");
    EXPECT_NE(e.message.find(name), std::string::npos) << e.message;
  }
  EXPECT_EQ(
      bad(R"({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": [1]}, "seed": 1})").code,
      "unsupported_parameter");
}

struct Wrong {
  const char* body;
  const char* code;
  const char* names;  // stands in the message
};

TEST(RequestParser, AWrongValueIsNamedWithWhatWasExpected) {
  for (const Wrong& w : std::initializer_list<Wrong>{
           {R"({})", "missing_required_parameter", "body.prompt"},
           {R"({"prompt": null})", "missing_required_parameter", "body.prompt"},
           {R"({"prompt": []})", "invalid_value", "body.prompt"},
           {R"({"prompt": [[]]})", "invalid_value", "body.prompt"},
           {R"({"prompt": 5})", "invalid_value", "body.prompt"},
           {R"({"prompt": {}})", "invalid_value", "body.prompt"},
           {R"({"prompt": [null]})", "invalid_value", "body.prompt"},
           {R"({"prompt": ["a", "b"]})", "unsupported_parameter", "2 prompts"},
           {R"({"prompt": [1, 257]})", "invalid_value", "body.prompt[1]: found 257, expected a token id from 0 to 256"},
           {R"({"prompt": [-1]})", "invalid_value", "body.prompt[0]"},
           {R"({"prompt": [1, 2.0]})", "invalid_value", "body.prompt[1]"},
           {R"({"prompt": [1, "a"]})", "invalid_value", "body.prompt[1]"},
           {R"({"prompt": [99999999999999999999999]})", "invalid_value", "body.prompt[0]"},
           {R"({"prompt": [18446744073709551615]})", "invalid_value", "body.prompt[0]"},
           {R"({"prompt": "x"})", "invalid_value", "the tokenizer is not this model's"},
           {R"({"prompt": [1, 2, 3, 4], "max_tokens": 61})", "context_length_exceeded", "64"},
           {R"({"prompt": [1], "max_tokens": 2147483647})", "context_length_exceeded", "2147483647"},
           {R"({"prompt": [1], "max_tokens": 2147483648})", "invalid_value", "1 to 2147483647"},
           {R"({"prompt": [1], "max_tokens": 0})", "invalid_value", "body.max_tokens"},
           {R"({"prompt": [1], "max_tokens": -1, "echo": true})", "invalid_value", "body.max_tokens"},
           {R"({"prompt": [1], "max_tokens": "7"})", "invalid_value", "body.max_tokens"},
           {R"({"prompt": [1], "max_tokens": 1.5})", "invalid_value", "body.max_tokens"},
           {R"({"prompt": [1], "temperature": -0.1})", "invalid_value", "body.temperature: found -0.1"},
           {R"({"prompt": [1], "temperature": 1e300})", "invalid_value", "body.temperature"},
           {R"({"prompt": [1], "temperature": "hot"})", "invalid_value", "body.temperature"},
           {R"({"prompt": [1], "temperature": true})", "invalid_value", "body.temperature"},
           {R"({"prompt": [1], "top_p": 0})", "invalid_value", "body.top_p"},
           {R"({"prompt": [1], "top_p": 1.01})", "invalid_value", "body.top_p"},
           {R"({"prompt": [1], "top_k": -2})", "invalid_value", "body.top_k"},
           {R"({"prompt": [1], "top_k": 0.5})", "invalid_value", "body.top_k"},
           {R"({"prompt": [1], "seed": 1.5})", "invalid_value", "body.seed"},
           {R"({"prompt": [1], "seed": "x"})", "invalid_value", "body.seed"},
           {R"({"prompt": [1], "logprobs": 21})", "invalid_value", "body.logprobs"},
           {R"({"prompt": [1], "logprobs": true})", "invalid_value", "body.logprobs"},
           {R"({"prompt": [1], "echo": 1})", "invalid_value", "body.echo"},
           {R"({"prompt": [1], "stop": ""})", "invalid_value", "body.stop"},
           {R"({"prompt": [1], "stop": ["a", 5]})", "invalid_value", "body.stop"},
           {R"({"prompt": [1], "stop": {"a": 1}})", "invalid_value", "body.stop"},
           {R"({"prompt": [1], "stop_token_ids": 5})", "invalid_value", "body.stop_token_ids"},
           {R"({"prompt": [1], "stop_token_ids": [257]})", "invalid_value", "body.stop_token_ids[0]"},
       }) {
    const RequestError e =
        bad(line(w.body),
            std::string_view(w.body) == R"({"prompt": "x"})" ? RequestRules{100, 64, &kTokenizer, 0} : rules());
    EXPECT_EQ(e.code, w.code) << w.body << ": " << e.message;
    EXPECT_NE(e.message.find(w.names), std::string::npos) << w.body << ": " << e.message;
    EXPECT_EQ(e.custom_id, "a");
  }
}

TEST(RequestParser, AWrongEnvelopeIsNamed) {
  const auto with = [](const char* id, const char* method, const char* url, const char* body) {
    return std::string("{") + id + method + url + body + R"("metadata": null})";
  };
  const char *id = R"("custom_id": "a",)", *method = R"("method": "POST",)", *url = R"("url": "/v1/completions",)",
             *body = R"("body": {"prompt": [1]},)";
  good(with(id, method, url, body));
  EXPECT_EQ(bad(with("", method, url, body)).code, "missing_required_parameter");
  EXPECT_EQ(bad(with(R"("custom_id": "",)", method, url, body)).code, "invalid_value");
  EXPECT_EQ(bad(with(R"("custom_id": 7,)", method, url, body)).code, "invalid_value");
  EXPECT_EQ(bad(with(id, "", url, body)).code, "missing_required_parameter");
  EXPECT_EQ(bad(with(id, R"("method": "GET",)", url, body)).code, "invalid_method");
  EXPECT_EQ(bad(with(id, R"("method": 1,)", url, body)).code, "invalid_method");
  EXPECT_EQ(bad(with(id, method, "", body)).code, "missing_required_parameter");
  EXPECT_EQ(bad(with(id, method, R"("url": "/v1/chat",)", body)).code, "invalid_url");
  EXPECT_EQ(bad(with(id, method, url, "")).code, "missing_required_parameter");
  EXPECT_EQ(bad(with(id, method, url, R"("body": [],)")).code, "invalid_value");
  EXPECT_EQ(bad(with(id, method, R"("url": "/v1/embeddings",)", "")).custom_id, "a");
}

std::string chat(const std::string& body) {
  return R"({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": )" + body + "}";
}

/// Renders every conversation as "hi</s>", the last special token being the request's own.
RequestRules chat_rules() {
  RequestRules r = rules();
  r.render_chat = [](std::string_view) { return ChatPrompt{"</s>hi</s>", {7}}; };
  return r;
}

constexpr const char* kHello = R"("messages": [{"role": "user", "content": "hi"}])";

TEST(RequestParser, AConversationIsRenderedAndItsOwnSpecialTokensAreText) {
  const Request r = good(chat(std::string("{") + kHello + "}"), chat_rules());
  EXPECT_TRUE(r.chat);
  EXPECT_EQ(r.prompt.front(), 0);
  EXPECT_EQ(r.prompt.size(), 7U);
  EXPECT_EQ(r.prompt[3], FakeTokenizer::byte('<'));
  EXPECT_EQ(r.max_tokens, 57) << "what is left of the model's positions";
  EXPECT_EQ(r.sampling.logprobs, -1);
  EXPECT_FALSE(good(line(R"({"prompt": [3, 4]})")).chat);
}

TEST(RequestParser, AConversationMayUseWhatItsRankHolds) {
  RequestRules r = chat_rules();
  r.kv_tokens = 10;
  EXPECT_EQ(good(chat(std::string("{") + kHello + "}"), r).max_tokens, 3);
  r.kv_tokens = 5;
  EXPECT_EQ(good(chat(std::string("{") + kHello + "}"), r).max_tokens, 1) << "too large, which the feed says";
}

TEST(RequestParser, TakesEveryParameterOfAConversation) {
  const Request r = good(chat(R"({"messages": [
      {"role": "system", "content": "s"}, {"role": "developer", "content": [{"type": "text", "text": "d"}]},
      {"role": "user", "content": "u", "name": "n"}, {"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]},
      {"role": "tool", "content": "t", "tool_call_id": "1"}], "tools": [{"type": "function"}], "tool_choice": "auto",
      "documents": [{"title": "t"}], "chat_template_kwargs": {"enable_thinking": false}, "add_generation_prompt": true,
      "continue_final_message": false, "reasoning_effort": "high", "max_tokens": 3, "max_completion_tokens": 4,
      "logprobs": true, "top_logprobs": 2, "temperature": 0.5, "stop": "x", "stop_token_ids": [3], "seed": 1, "n": 1,
      "response_format": {"type": "text"}, "split_special_tokens": true, "model": "m", "stream": false})"),
                         chat_rules());
  EXPECT_EQ(r.max_tokens, 4);
  EXPECT_EQ(r.sampling.logprobs, 2);
  EXPECT_EQ(r.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(
      good(chat(std::string(R"({"logprobs": true, "max_tokens": 3, )") + kHello + "}"), chat_rules()).sampling.logprobs,
      0);
}

TEST(RequestParser, AWrongConversationIsNamed) {
  for (const Wrong& w : std::vector<Wrong>{
           {R"({})", "missing_required_parameter", "body.messages"},
           {R"({"prompt": "x"})", "missing_required_parameter", "body.messages"},
           {R"({"messages": []})", "invalid_value", "body.messages"},
           {R"({"messages": "x"})", "invalid_value", "body.messages"},
           {R"({"messages": ["x"]})", "invalid_value", "body.messages[0]"},
           {R"({"messages": [{"content": "x"}]})", "missing_required_parameter", "body.messages[0].role"},
           {R"({"messages": [{"role": "king", "content": "x"}]})", "invalid_value",
            "body.messages[0].role: found \"king\""},
           {R"({"messages": [{"role": "user"}]})", "missing_required_parameter", "body.messages[0].content"},
           {R"({"messages": [{"role": "user", "content": 5}]})", "invalid_value", "body.messages[0].content"},
           {R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]})",
            "unsupported_parameter", "body.messages[0].content[0].type: found \"image_url\""},
           {R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})", "missing_required_parameter",
            "body.messages[0].content[0].text"},
           {R"({"messages": [{"role": "user", "content": ["x"]}]})", "invalid_value", "body.messages[0].content[0]"},
           {R"({"messages": [{"role": "assistant", "tool_calls": 1}]})", "invalid_value",
            "body.messages[0].tool_calls"},
           {R"({"tools": {}, )", "invalid_value", "body.tools"},
           {R"({"tools": ["f"], )", "invalid_value", "body.tools[0]"},
           {R"({"tool_choice": "required", )", "unsupported_parameter", "body.tool_choice"},
           {R"({"documents": 1, )", "invalid_value", "body.documents"},
           {R"({"chat_template_kwargs": [], )", "invalid_value", "body.chat_template_kwargs"},
           {R"({"chat_template_kwargs": {"messages": []}, )", "invalid_value", "body.chat_template_kwargs.messages"},
           {R"({"chat_template": "x", )", "unsupported_parameter", "chat_template"},
           {R"({"add_generation_prompt": true, "continue_final_message": true, )", "invalid_value",
            "add_generation_prompt"},
           {R"({"response_format": {"type": "json_object"}, )", "unsupported_parameter", "response_format"},
           {R"({"n": 2, )", "unsupported_parameter", "\"n\""},
           {R"({"logprobs": 1, )", "invalid_value", "body.logprobs"},
           {R"({"top_logprobs": 1, )", "invalid_value", "body.top_logprobs"},
           {R"({"logprobs": true, "top_logprobs": 21, )", "invalid_value", "body.top_logprobs"},
           {R"({"max_tokens": 0, )", "invalid_value", "body.max_tokens"},
           {R"({"max_completion_tokens": 58, )", "context_length_exceeded", "58"},
           {R"({"echo": true, )", "unsupported_parameter", "echo"},
       }) {
    const std::string body = std::string_view(w.body).ends_with(", ") ? w.body + std::string(kHello) + "}" : w.body;
    const RequestError e = bad(chat(body), chat_rules());
    EXPECT_EQ(e.code, w.code) << body << ": " << e.message;
    EXPECT_NE(e.message.find(w.names), std::string::npos) << body << ": " << e.message;
  }
  RequestRules r = chat_rules();
  r.render_chat = [](std::string_view) -> ChatPrompt { throw InputError("chat_template.jinja, line 3: no"); };
  EXPECT_EQ(bad(chat(std::string("{") + kHello + "}"), r).code, "chat_template_error");
  EXPECT_NE(bad(chat(std::string("{") + kHello + "}"), r).message.find("chat_template.jinja, line 3"),
            std::string::npos);
  EXPECT_NE(bad(chat(std::string("{") + kHello + "}")).message.find("tokenizer"), std::string::npos);
}

TEST(RequestParser, WithoutATokenizerTextIsRefused) {
  EXPECT_NE(bad(line(R"({"prompt": "x"})"), rules(nullptr)).message.find("no tokenizer"), std::string::npos);
  EXPECT_NE(bad(line(R"({"prompt": [1], "stop": "x"})"), rules(nullptr)).message.find("stop_token_ids"),
            std::string::npos);
}

TEST(RequestParser, WhatIsNotJsonIsSaid) {
  for (const std::string& text :
       {std::string("nonsense"), std::string("{"), std::string("[]"), std::string("null"), std::string("{} {}"),
        std::string("{\"custom_id\": \"\xFF\"}"), std::string("{\"custom_id\": \"\\ud800\"}"), std::string("\0", 1),
        line(R"({"prompt": [1], "temperature": 1e999})"), line(R"({"prompt": [1], "temperature": NaN})"),
        "{\"a\":" + std::string(1'000'000, '['), std::string(100'000, '{')}) {
    EXPECT_EQ(bad(text).code, "invalid_json_line") << text.substr(0, 60);
  }
}

TEST(RequestParser, ATextThatCanNotFitIsRefusedBeforeItIsTokenized) {
  EXPECT_EQ(bad(line(R"({"prompt": ")" + std::string(8'000'000, 'x') + "\"}")).code, "context_length_exceeded");
}

TEST(RequestParser, NoBytesMakeItThrow) {
  const std::string whole =
      line(R"({"prompt": "hé \ud83d\ude00", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40,
    "stop": ["\n", "END"], "stop_token_ids": [2], "logprobs": 5, "n": 1, "logit_bias": {}, "seed": 5})");
  good(whole);
  for (std::size_t size = 0; size < whole.size(); ++size) bad(whole.substr(0, size));
  std::mt19937 random(5);
  for (int round = 0; round < 20'000; ++round) {
    std::string text = whole;
    for (std::uint32_t n = 1 + random() % 4; n > 0; --n) {
      const std::size_t at = random() % text.size();
      switch (random() % 4) {
        case 0:
          text[at] = static_cast<char>(random() % 256);
          break;
        case 1:
          text.erase(at, 1 + random() % 8);
          break;
        case 2:
          text.insert(at, 1, "{}[]\",:0-9e."[random() % 12]);
          break;
        default:
          text.insert(at, text.substr(random() % text.size(), random() % 16));
          break;
      }
      if (text.empty()) text = "x";
    }
    const RequestOrError parsed = parse_request(text, 5, rules());
    if (const auto* r = std::get_if<Request>(&parsed)) {
      EXPECT_FALSE(r->custom_id.empty());
      EXPECT_FALSE(r->prompt.empty());
      EXPECT_LE(static_cast<std::int64_t>(r->prompt.size()) + r->max_tokens, 64);
    } else {
      EXPECT_FALSE(std::get<RequestError>(parsed).message.empty());
    }
  }
}

}  // namespace
}  // namespace coterie
