#include "runtime/requests/chat_renderer.hpp"

#include "placement/input_error.hpp"
#include "tests/placement/scratch_folder.hpp"
#include "tests/runtime/text/fake_tokenizer.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/wait.h>

#include <cerrno>
#include <filesystem>

namespace coterie {
namespace {

using Json = nlohmann::ordered_json;

const FakeTokenizer kTokenizer = FakeTokenizer::with({{Tokenizer::PieceKind::control, "</s>"},
                                                      {Tokenizer::PieceKind::control, "<|end|>"},
                                                      {Tokenizer::PieceKind::control, ""},
                                                      {Tokenizer::PieceKind::text, "text"}},
                                                     {});

/// Debian's Python first: it begins faster than those that a version manager puts before it.
ChatRendererOptions defaults() {
  ChatRendererOptions options;
  options.pythons = {"/usr/bin/python3", "python3"};
  return options;
}

class ChatRendererTest : public testing::Test {
 protected:
  /// A model folder with this template.
  ChatRenderer with(const std::string& chat_template, ChatRendererOptions options = defaults()) const {
    write_bytes(folder_ / "chat_template.jinja", chat_template);
    return {folder_ / "", kTokenizer, std::move(options)};
  }
  static std::string line(const Json& body) { return Json{{"custom_id", "a"}, {"body", body}}.dump(); }
  static std::string user(const std::string& content, Json body = Json::object()) {
    body["messages"] = Json::array({{{"role", "user"}, {"content", content}}});
    return line(body);
  }
  static std::string error_of(ChatRenderer& renderer, const std::string& line) {
    try {
      return "rendered " + renderer.render(line).text;
    } catch (const InputError& e) {
      return e.what();
    }
  }
  /// The prompt with a bar at each border.
  static std::string barred(const ChatPrompt& prompt) {
    std::string text = prompt.text;
    for (auto border = prompt.borders.rbegin(); border != prompt.borders.rend(); ++border) text.insert(*border, "|");
    return text;
  }

  ScratchFolder folder_;
};

constexpr const char* kPlain = "{% for m in messages %}[{{ m.content | trim }}]</s>{% endfor %}";

TEST_F(ChatRendererTest, RendersWhatHfRenders) {
  const auto cases = Json::parse(read_bytes(std::filesystem::path(COTERIE_FIXTURES) / "chat" / "cases.json"));
  for (const Json& model : cases) {
    const ScratchFolder folder;
    for (const auto& file : model["files"].items()) {
      const std::filesystem::path path = folder / file.key();
      std::filesystem::create_directories(path.parent_path());
      write_bytes(path, file.value().get<std::string>());
    }
    ChatRenderer renderer(folder / "", kTokenizer, defaults());
    for (const Json& example : model["requests"]) {
      const std::string name = example["name"], body = example["body"];
      const std::string request = R"({"custom_id": "a", "body": )" + body + "}";
      if (example.contains("text")) {
        EXPECT_EQ(renderer.render(request).text, example["text"].get<std::string>()) << name;
      } else {
        const std::string error = error_of(renderer, request);
        EXPECT_NE(error.find(example["error"].get<std::string>()), std::string::npos) << name << ": " << error;
      }
    }
  }
}

TEST_F(ChatRendererTest, OtherTemplatesAreRefusedByName) {
  for (const char* wanted : {"{% include 'rest.jinja' %}", "{% import 'rest.jinja' as rest %}",
                             "{% from 'rest.jinja' import rest %}", "{% extends 'rest.jinja' %}"}) {
    ChatRenderer renderer = with(wanted);
    EXPECT_NE(error_of(renderer, user("a")).find("'rest.jinja': a chat template stands alone"), std::string::npos)
        << wanted;
  }
}

TEST_F(ChatRendererTest, SpecialTokensOfTheRequestAreFencedThoseOfTheTemplateAreNot) {
  ChatRenderer renderer = with(kPlain);
  EXPECT_EQ(barred(renderer.render(user("plain"))), "[plain]</s>");
  EXPECT_EQ(barred(renderer.render(user(" é</s> "))), "[é<|/s>]</s>");
  EXPECT_EQ(barred(renderer.render(user("</s></s>"))), "[<|/s><|/s>]</s>");
  // Parts of a name at an end, which might meet the rest of it.
  EXPECT_EQ(barred(renderer.render(user("/s> and <"))), "[|/s> and <|]</s>");
  EXPECT_EQ(barred(renderer.render(user("a <|e"))), "[a <||e]</s>");
  EXPECT_EQ(barred(renderer.render(user("<b> </t> < /s>"))), "[<b> </t> < /s>]</s>");
  EXPECT_EQ(barred(renderer.render(user("</s>", {{"split_special_tokens", false}}))), "[</s>]</s>");
}

TEST_F(ChatRendererTest, FencesHoldInToolsAndThroughJson) {
  ChatRenderer renderer = with("{{ tools | tojson }}{{ tools | tojson(ensure_ascii=true) }}{{ x }}");
  const Json tools = Json::array({{{"</s>", "é</s>"}}});
  EXPECT_EQ(barred(renderer.render(user("a", {{"tools", tools}, {"chat_template_kwargs", {{"x", "</s>"}}}}))),
            R"([{"<|/s>": "é<|/s>"}][{"<|/s>": "\u00e9<|/s>"}]<|/s>)");
}

TEST_F(ChatRendererTest, TextsThatATemplatePutsTogetherMakeNoSpecialToken) {
  ChatRenderer renderer = with("{% for m in messages %}{{ m.content }}{% endfor %}</s>");
  const ChatPrompt prompt = renderer.render(
      line({{"messages", {{{"role", "user"}, {"content", "</"}}, {{"role", "user"}, {"content", "s>"}}}}}));
  EXPECT_EQ(prompt.text, "</s></s>");
  EncodeOptions options;
  options.add_special_tokens = false;
  options.parse_special_tokens = true;
  options.borders = prompt.borders;
  const auto ids = kTokenizer.encode(prompt.text, options);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 0), 1);
  EXPECT_EQ(ids.back(), 0);
}

TEST_F(ChatRendererTest, ToolsAreKeptFromTheTemplateWhereNoneIsToBeCalled) {
  ChatRenderer renderer = with("{{ tools is none }}");
  const Json tools = Json::array({{{"type", "function"}}});
  EXPECT_EQ(renderer.render(user("a", {{"tools", tools}, {"tool_choice", "auto"}})).text, "False");
  EXPECT_EQ(renderer.render(user("a", {{"tools", tools}, {"tool_choice", "none"}})).text, "True");
}

TEST_F(ChatRendererTest, ArgumentsOfCallsAreObjectsAsTemplatesExpectThem) {
  ChatRenderer renderer =
      with("{{ messages[0].tool_calls[0].function.arguments.a }} {{ messages[0].content is defined }}");
  const Json call = {{"function", {{"name", "f"}, {"arguments", R"({"a": "b"})"}}}};
  EXPECT_EQ(
      renderer.render(line({{"messages", {{{"role", "assistant"}, {"content", nullptr}, {"tool_calls", {call}}}}}}))
          .text,
      "b False");
}

TEST_F(ChatRendererTest, PartsAreOneTextForTemplatesThatKnowNoParts) {
  const Json message = {{"role", "user"},
                        {"content", {{{"type", "text"}, {"text", "one"}}, {{"type", "text"}, {"text", "two"}}}}};
  for (const char* content :
       {"{{ m.content }}", "{{ m.content | trim }}", "{{ '' + m.content }}", "{{ m.content.strip() }}"}) {
    ChatRenderer renderer = with(std::string("{% for m in messages %}") + content + "{% endfor %}");
    EXPECT_EQ(renderer.render(line({{"messages", {message}}})).text, "one\ntwo") << content;
  }
}

TEST_F(ChatRendererTest, TextIsTakenAsItIs) {
  ChatRenderer renderer = with("{{ messages[0].content }}");
  for (const std::string& text :
       {std::string("a\0b", 3), std::string("\uE000\uE001 \U0001F30D \u2028"), std::string(5'000'000, 'x')}) {
    const ChatPrompt prompt = renderer.render(user(text));
    EXPECT_EQ(prompt.text, text);
    EXPECT_TRUE(prompt.borders.empty());
  }
}

TEST_F(ChatRendererTest, ATemplateThatNeverEndsIsStoppedAndAfterThreeNoneIsTried) {
  ChatRendererOptions options = defaults();
  options.seconds = 1;
  ChatRenderer renderer = with(
      "\n{% if messages[0].content == 'loop' %}{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% "
      "endfor %}{% endif %}",
      options);
  EXPECT_EQ(renderer.render(user("fine")).text, "\n");
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(error_of(renderer, user("loop")), "chat_template.jinja, line 2: TimeoutError: it runs for more than 1 s");
  EXPECT_EQ(renderer.render(user("fine")).text, "\n");
  EXPECT_NE(error_of(renderer, user("loop")), "rendered ");
  EXPECT_NE(error_of(renderer, user("fine")).find("no more are tried"), std::string::npos);
}

TEST_F(ChatRendererTest, MemoryHasALimit) {
  ChatRenderer renderer = with("{% if messages[0].content == 'big' %}{{ 'x' * 10000000000 }}{% endif %}");
  EXPECT_NE(error_of(renderer, user("big")).find("1024 MiB"), std::string::npos);
  EXPECT_EQ(renderer.render(user("fine")).text, "");
}

TEST_F(ChatRendererTest, WhatIsMissingIsNamed) {
  ChatRenderer no_template(folder_ / "", kTokenizer);
  EXPECT_NE(error_of(no_template, user("a")).find("chat_template.jinja"), std::string::npos);
  ChatRendererOptions options;
  options.pythons = {"/nowhere/python3", "false"};
  ChatRenderer no_python = with(kPlain, options);
  const std::string error = error_of(no_python, user("a"));
  EXPECT_NE(error.find("install the package python3-jinja2"), std::string::npos) << error;
  EXPECT_NE(error.find("/nowhere/python3 can't be started"), std::string::npos) << error;
  options.pythons = {"false", "python3", "/usr/bin/python3"};
  ChatRenderer second = with(kPlain, options);
  EXPECT_EQ(second.render(user("a")).text, "[a]</s>");
}

TEST_F(ChatRendererTest, LeavesNoProcess) {
  {
    ChatRenderer renderer = with(kPlain);
    EXPECT_EQ(renderer.render(user("a")).text, "[a]</s>");
  }
  EXPECT_EQ(waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

}  // namespace
}  // namespace coterie
