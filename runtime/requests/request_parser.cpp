#include "runtime/requests/request_parser.hpp"

#include "placement/input_error.hpp"
#include "runtime/requests/chat_request.hpp"
#include "runtime/requests/request_fields.hpp"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>

namespace coterie {
namespace {

using Json = nlohmann::json;

constexpr int kDeepest = 32;  // arrays and objects inside one another
constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
constexpr int kMostLogprobs = 20;          // alternatives a token may be reported with, as in vLLM
constexpr std::int64_t kTokenBytes = 256;  // more than a token of a text prompt has on average, in any vocabulary

/// Brackets open at once. The parser of a deep value needs memory many times the line's.
int depth(std::string_view line) {
  int open = 0, deepest = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++open);
    } else if (c == ']' || c == '}') {
      --open;
    }
  }
  return deepest;
}

Json parse_json(std::string_view line) {
  if (depth(line) > kDeepest) {
    throw WrongRequest{"invalid_json_line", "found values nested more than " + std::to_string(kDeepest) + " deep"};
  }
  try {
    Json json = Json::parse(line);
    if (!json.is_object()) throw WrongRequest{"invalid_json_line", "found " + shown(json) + ", expected a JSON object"};
    return json;
  } catch (const Json::exception& e) {
    const std::string_view text = e.what();  // "[json.exception.name.number] what"
    const std::size_t tag = text.find("] ");
    throw WrongRequest{
        "invalid_json_line",
        "not valid JSON: " + std::string(text.substr(tag == std::string_view::npos ? 0 : tag + 2).substr(0, 300))};
  }
}

std::vector<std::int32_t> token_ids(const Json& values, const std::string& field, const RequestRules& rules) {
  const std::string expected = "a token id from 0 to " + std::to_string(rules.vocabulary - 1);
  std::vector<std::int32_t> ids;
  ids.reserve(values.size());
  for (const Json& value : values) {
    const std::string element = field + "[" + std::to_string(ids.size()) + "]";
    ids.push_back(
        static_cast<std::int32_t>(RequestFields::checked_integer(value, element, 0, rules.vocabulary - 1, expected)));
  }
  return ids;
}

void take_text_prompt(const std::string& text, const std::string& field, EncodeOptions options,
                      const RequestRules& rules, Request& request) {
  if (rules.tokenizer == nullptr) {
    throw wrong_value(field, "text", "token ids: the model folder has no tokenizer");
  }
  if (static_cast<std::int64_t>(text.size()) > rules.max_positions * kTokenBytes) {
    throw WrongRequest{"context_length_exceeded", field + ": found " + std::to_string(text.size()) +
                                                      " bytes of text, expected at most " +
                                                      std::to_string(rules.max_positions) + " tokens"};
  }
  request.prompt = rules.tokenizer->encode(text, options);
  if (request.echo) request.prompt_text = text;
  for (const std::int32_t id : request.prompt) {
    if (id < 0 || id >= rules.vocabulary) {
      throw wrong_value(field, "text with the token id " + std::to_string(id),
                        "ids below " + std::to_string(rules.vocabulary) + ": the tokenizer is not this model's");
    }
  }
}

void take_prompt(RequestFields& body, const RequestRules& rules, Request& request) {
  const std::string field = body.path("prompt"), expected = "a text or a list of token ids";
  EncodeOptions options;
  options.add_special_tokens = body.flag("add_special_tokens", true);
  options.parse_special_tokens = !body.flag("split_special_tokens", true);
  std::optional<Json> prompt = body.take("prompt");
  if (!prompt) throw missing_value(field, expected);
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {  // a list of prompts
    if (prompt->size() > 1) {
      throw WrongRequest{"unsupported_parameter",
                         field + ": found " + std::to_string(prompt->size()) + " prompts, expected one a line"};
    }
    prompt = Json(std::move(prompt->front()));
  }
  if (prompt->is_string()) {
    take_text_prompt(prompt->get_ref<const std::string&>(), field, options, rules, request);
  } else if (prompt->is_array()) {
    request.prompt = token_ids(*prompt, field, rules);
  } else {
    throw wrong_value(field, shown(*prompt), expected);
  }
  if (request.prompt.empty()) throw wrong_value(field, "no tokens", "at least one");
}

void take_stops(RequestFields& body, const RequestRules& rules, Request& request) {
  if (const auto ids = body.take("stop_token_ids")) {
    if (!ids->is_array()) throw wrong_value(body.path("stop_token_ids"), shown(*ids), "a list of token ids");
    request.stop_token_ids = token_ids(*ids, body.path("stop_token_ids"), rules);
  }
  const std::string field = body.path("stop"), expected = "a text that is not empty, or a list of such";
  const std::optional<Json> stop = body.take("stop");
  if (!stop) return;
  const auto add = [&](const Json& text) {
    if (!text.is_string() || text.get_ref<const std::string&>().empty())
      throw wrong_value(field, shown(text), expected);
    request.stop.push_back(text.get<std::string>());
  };
  if (stop->is_array()) {
    std::for_each(stop->begin(), stop->end(), add);
  } else {
    add(*stop);
  }
  if (!request.stop.empty() && rules.tokenizer == nullptr) {
    throw wrong_value(field, shown(*stop), "none (or stop_token_ids): the model folder has no tokenizer");
  }
}

SamplingOptions take_sampling(RequestFields& body, const RequestRules& rules) {
  SamplingOptions s;
  s.temperature = body.number(
      "temperature", 1, [](float t) { return t >= 0; }, "a number of at least 0");
  s.top_p = body.number(
      "top_p", 1, [](float p) { return p > 0 && p <= 1; }, "a number above 0 and at most 1");
  s.top_k = static_cast<int>(body.integer("top_k", 0, -1, kMost, "a number of tokens, or 0 or -1 for all"));
  s.top_k = std::max(s.top_k, 0);
  s.seed = rules.seed;
  if (const auto seed = body.take("seed")) {
    if (!seed->is_number_integer()) throw wrong_value(body.path("seed"), shown(*seed), "a whole number of 64 bits");
    s.seed = seed->get<std::uint64_t>();
  }
  return s;
}

/// What any request may have, and nothing else.
void take_what_changes_nothing(RequestFields& body) {
  for (const char* any : {"model", "user", "metadata"}) static_cast<void>(body.take(any));
  body.refuse_others();
}

/// The whole numbers from `least`.
std::string from(int least) {
  return std::to_string(least) + " to " + std::to_string(kMost);
}

int take_alternatives(RequestFields& body, const char* name, int otherwise) {
  return static_cast<int>(
      body.integer(name, otherwise, 0, kMostLogprobs, "a whole number from 0 to " + std::to_string(kMostLogprobs)));
}

void take_completion(RequestFields& body, const RequestRules& rules, Request& request) {
  request.echo = body.flag("echo", false);
  request.max_tokens = static_cast<int>(body.integer("max_tokens", 16, request.echo ? 0 : 1, kMost,
                                                     request.echo ? from(0) : from(1) + " (0 goes with echo only)"));
  request.sampling.logprobs = take_alternatives(body, "logprobs", -1);
  take_prompt(body, rules, request);
}

/// The prompt is rendered last, when all fields were found right.
void take_chat(RequestFields& body, const RequestRules& rules, std::string_view line, Request& request) {
  request.chat = true;
  const bool logprobs = body.flag("logprobs", false);
  const int alternatives = take_alternatives(body, "top_logprobs", 0);
  if (logprobs) request.sampling.logprobs = alternatives;
  if (!logprobs && alternatives > 0) {
    throw wrong_value(body.path("top_logprobs"), std::to_string(alternatives), "0 without logprobs");
  }
  const std::int64_t older = body.integer("max_tokens", 0, 1, kMost, from(1));
  const std::int64_t tokens = body.integer("max_completion_tokens", older, 1, kMost, from(1));
  EncodeOptions options;
  options.add_special_tokens = false;
  options.parse_special_tokens = true;
  static_cast<void>(body.flag("split_special_tokens", true));  // the renderer's
  check_chat(body);
  take_what_changes_nothing(body);
  if (!rules.render_chat) {
    throw wrong_value(body.path("messages"), "a conversation", "a prompt of token ids: the model has no tokenizer");
  }
  ChatPrompt prompt;
  try {
    prompt = rules.render_chat(line);
  } catch (const InputError& e) {
    throw WrongRequest{"chat_template_error", e.what()};
  }
  options.borders = prompt.borders;
  take_text_prompt(prompt.text, body.path("messages"), options, rules, request);
  if (request.prompt.empty()) throw wrong_value(body.path("messages"), "no tokens", "a template that makes some");
  const auto used = static_cast<std::int64_t>(request.prompt.size());
  const std::int64_t left = std::min(rules.max_positions, rules.kv_tokens) - used;
  request.max_tokens = static_cast<int>(tokens > 0 ? tokens : std::clamp<std::int64_t>(left, 1, kMost));
}

void take_body(RequestFields& body, const RequestRules& rules, bool chat, std::string_view line, Request& request) {
  request.ignore_eos = body.flag("ignore_eos", false);
  request.return_token_ids = body.flag("return_token_ids", false);
  request.include_stop_str_in_output = body.flag("include_stop_str_in_output", false);
  request.skip_special_tokens = body.flag("skip_special_tokens", true);
  request.sampling = take_sampling(body, rules);
  take_stops(body, rules, request);
  if (chat) {
    take_chat(body, rules, line, request);
  } else {
    take_completion(body, rules, request);
    take_what_changes_nothing(body);
  }

  const std::int64_t tokens = static_cast<std::int64_t>(request.prompt.size()) + request.max_tokens;
  if (tokens > rules.max_positions) {
    throw WrongRequest{"context_length_exceeded",
                       body.path(chat ? "messages" : "prompt") + ": found " + std::to_string(request.prompt.size()) +
                           " tokens and max_tokens " + std::to_string(request.max_tokens) + ", expected at most " +
                           std::to_string(rules.max_positions) + " together, the model's positions"};
  }
}

void expect_text(RequestFields& fields, const char* name, const char* code, const char* only) {
  const std::optional<Json> value = fields.take(name);
  if (!value) throw missing_value(name, only);
  if (*value != only) throw WrongRequest{code, std::string(name) + ": found " + shown(*value) + ", expected " + only};
}

/// Whether it is the chat's.
bool take_url(RequestFields& fields) {
  static constexpr const char *kCompletions = "/v1/completions", *kChat = "/v1/chat/completions";
  const std::string expected = std::string(kCompletions) + " or " + kChat;
  const std::optional<Json> url = fields.take("url");
  if (!url) throw missing_value("url", expected);
  if (*url != kCompletions && *url != kChat) {
    throw WrongRequest{"invalid_url", "url: found " + shown(*url) + ", expected " + expected};
  }
  return *url == kChat;
}

void take_line(std::string_view line, const RequestRules& rules, Request& request) {
  RequestFields fields(parse_json(line), "");
  const std::optional<Json> custom_id = fields.take("custom_id");
  if (!custom_id) throw missing_value("custom_id", "a text that is not empty");
  if (!custom_id->is_string() || custom_id->get_ref<const std::string&>().empty()) {
    throw wrong_value("custom_id", shown(*custom_id), "a text that is not empty");
  }
  request.custom_id = custom_id->get<std::string>();
  expect_text(fields, "method", "invalid_method", "POST");
  const bool chat = take_url(fields);
  std::optional<Json> body = fields.take("body");
  if (!body) throw missing_value("body", "an object");
  if (!body->is_object()) throw wrong_value("body", shown(*body), "an object");
  fields.refuse_others();
  RequestFields parameters(std::move(*body), "body.");
  take_body(parameters, rules, chat, line, request);
}

}  // namespace

RequestOrError parse_request(std::string_view line, std::int64_t number, const RequestRules& rules) {
  Request request;
  request.line = number;
  try {
    take_line(line, rules, request);
    return request;
  } catch (const WrongRequest& wrong) {
    return RequestError{request.custom_id, number, wrong.code, "line " + std::to_string(number) + ": " + wrong.message};
  }
}

}  // namespace coterie
