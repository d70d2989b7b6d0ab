#include "runtime/request_parser.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>

namespace coterie {
namespace {

using Json = nlohmann::json;

constexpr int kDeepest = 32;               // arrays and objects inside one another
constexpr int kMostLogprobs = 20;          // alternatives a token may be reported with, as in vLLM
constexpr std::int64_t kTokenBytes = 256;  // more than a token of a text prompt has on average, in any vocabulary

/// Ends the parsing of a line; never leaves this file.
struct Wrong {
  const char* code;
  std::string message;
};

/// A value as a message shows it.
std::string shown(const Json& value) {
  constexpr std::size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kLongest) text.replace(kLongest, std::string::npos, "...");
  return text;
}

Wrong wrong_value(const std::string& field, const std::string& found, const std::string& expected) {
  return {"invalid_value", field + ": found " + found + ", expected " + expected};
}

Wrong missing(const std::string& field, const std::string& expected) {
  return {"missing_required_parameter", field + ": found nothing, expected " + expected};
}

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
    throw Wrong{"invalid_json_line", "found values nested more than " + std::to_string(kDeepest) + " deep"};
  }
  try {
    Json json = Json::parse(line);
    if (!json.is_object()) throw Wrong{"invalid_json_line", "found " + shown(json) + ", expected a JSON object"};
    return json;
  } catch (const Json::exception& e) {
    const std::string_view text = e.what();  // "[json.exception.name.number] what"
    const std::size_t tag = text.find("] ");
    throw Wrong{
        "invalid_json_line",
        "not valid JSON: " + std::string(text.substr(tag == std::string_view::npos ? 0 : tag + 2).substr(0, 300))};
  }
}

/// The fields of an object, each to be asked for once. What nobody asked for is left over.
class Fields {
 public:
  Fields(Json object, std::string prefix) : object_(std::move(object)), prefix_(std::move(prefix)) {}

  [[nodiscard]] std::string path(const char* name) const { return prefix_ + name; }

  /// Nothing for a field that is absent or null.
  std::optional<Json> take(const char* name) {
    const auto found = object_.find(name);
    if (found == object_.end()) return std::nullopt;
    Json value = std::move(*found);
    object_.erase(found);
    if (value.is_null()) return std::nullopt;
    return value;
  }

  bool flag(const char* name, bool otherwise) {
    const auto value = take(name);
    if (!value) return otherwise;
    if (!value->is_boolean()) throw wrong_value(path(name), shown(*value), "true or false");
    return value->get<bool>();
  }

  std::int64_t integer(const char* name, std::int64_t otherwise, std::int64_t least, std::int64_t most,
                       const std::string& expected) {
    const auto value = take(name);
    return value ? checked_integer(*value, path(name), least, most, expected) : otherwise;
  }

  float number(const char* name, float otherwise, const auto& holds, const char* expected) {
    const auto value = take(name);
    if (!value) return otherwise;
    const float number = value->is_number() ? value->get<float>() : std::numeric_limits<float>::quiet_NaN();
    if (!std::isfinite(number) || !holds(number)) throw wrong_value(path(name), shown(*value), expected);
    return number;
  }

  static std::int64_t checked_integer(const Json& value, const std::string& field, std::int64_t least,
                                      std::int64_t most, const std::string& expected) {
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() || value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most));
    if (!fits || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most) {
      throw wrong_value(field, shown(value), expected);
    }
    return value.get<std::int64_t>();
  }

  [[nodiscard]] const Json& left_over() const noexcept { return object_; }

 private:
  Json object_;
  std::string prefix_;
};

/// Parameters that this program doesn't have, with the value at which they change nothing.
const std::array<std::pair<const char*, Json>, 16>& neutral_values() {
  static const std::array<std::pair<const char*, Json>, 16> values{{{"n", 1},
                                                                    {"best_of", 1},
                                                                    {"stream", false},
                                                                    {"suffix", ""},
                                                                    {"presence_penalty", 0},
                                                                    {"frequency_penalty", 0},
                                                                    {"repetition_penalty", 1},
                                                                    {"length_penalty", 1},
                                                                    {"logit_bias", Json::object()},
                                                                    {"min_p", 0},
                                                                    {"min_tokens", 0},
                                                                    {"use_beam_search", false},
                                                                    {"skip_special_tokens", true},
                                                                    {"spaces_between_special_tokens", true},
                                                                    {"return_tokens_as_token_ids", false},
                                                                    {"logprobs_mode", "raw_logprobs"}}};
  return values;
}

void refuse_others(const Fields& fields) {
  const auto& neutral = neutral_values();
  for (const auto& parameter : fields.left_over().items()) {
    const Json& value = parameter.value();
    if (value.is_null()) continue;
    const auto* known =
        std::find_if(neutral.begin(), neutral.end(), [&](const auto& n) { return n.first == parameter.key(); });
    const std::string field = fields.path(shown(parameter.key()).c_str());
    if (known == neutral.end()) throw Wrong{"unsupported_parameter", field + ": this parameter is not supported"};
    if (value != known->second) {
      throw Wrong{"unsupported_parameter", field + ": found " + shown(value) + ", expected " + shown(known->second) +
                                               ": others are not supported"};
    }
  }
}

std::vector<std::int32_t> token_ids(const Json& values, const std::string& field, const RequestRules& rules) {
  const std::string expected = "a token id from 0 to " + std::to_string(rules.vocabulary - 1);
  std::vector<std::int32_t> ids;
  ids.reserve(values.size());
  for (const Json& value : values) {
    const std::string element = field + "[" + std::to_string(ids.size()) + "]";
    ids.push_back(
        static_cast<std::int32_t>(Fields::checked_integer(value, element, 0, rules.vocabulary - 1, expected)));
  }
  return ids;
}

void take_text_prompt(const std::string& text, const std::string& field, EncodeOptions options,
                      const RequestRules& rules, Request& request) {
  if (rules.tokenizer == nullptr) {
    throw wrong_value(field, "text", "token ids: the model folder has no tokenizer.model");
  }
  if (static_cast<std::int64_t>(text.size()) > rules.max_positions * kTokenBytes) {
    throw Wrong{"context_length_exceeded", field + ": found " + std::to_string(text.size()) +
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

void take_prompt(Fields& body, const RequestRules& rules, Request& request) {
  const std::string field = body.path("prompt"), expected = "a text or a list of token ids";
  EncodeOptions options;
  options.add_special_tokens = body.flag("add_special_tokens", true);
  options.parse_special_tokens = !body.flag("split_special_tokens", true);
  std::optional<Json> prompt = body.take("prompt");
  if (!prompt) throw missing(field, expected);
  if (prompt->is_array() && !prompt->empty() && !prompt->front().is_number()) {  // a list of prompts
    if (prompt->size() > 1) {
      throw Wrong{"unsupported_parameter",
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

void take_stops(Fields& body, const RequestRules& rules, Request& request) {
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
    throw wrong_value(field, shown(*stop), "none (or stop_token_ids): the model folder has no tokenizer.model");
  }
}

SamplingOptions take_sampling(Fields& body, const RequestRules& rules) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  SamplingOptions s;
  s.temperature = body.number(
      "temperature", 1, [](float t) { return t >= 0; }, "a number of at least 0");
  s.top_p = body.number(
      "top_p", 1, [](float p) { return p > 0 && p <= 1; }, "a number above 0 and at most 1");
  s.top_k = static_cast<int>(body.integer("top_k", 0, -1, kMost, "a number of tokens, or 0 or -1 for all"));
  s.top_k = std::max(s.top_k, 0);
  s.logprobs = static_cast<int>(
      body.integer("logprobs", -1, 0, kMostLogprobs, "a whole number from 0 to " + std::to_string(kMostLogprobs)));
  s.seed = rules.seed;
  if (const auto seed = body.take("seed")) {
    if (!seed->is_number_integer()) throw wrong_value(body.path("seed"), shown(*seed), "a whole number of 64 bits");
    s.seed = seed->get<std::uint64_t>();
  }
  return s;
}

void take_body(Fields& body, const RequestRules& rules, Request& request) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  request.echo = body.flag("echo", false);
  request.ignore_eos = body.flag("ignore_eos", false);
  request.return_token_ids = body.flag("return_token_ids", false);
  request.include_stop_str_in_output = body.flag("include_stop_str_in_output", false);
  request.max_tokens =
      static_cast<int>(body.integer("max_tokens", 16, request.echo ? 0 : 1, kMost,
                                    request.echo ? "a number of tokens" : "at least 1 (0 goes with echo only)"));
  request.sampling = take_sampling(body, rules);
  take_stops(body, rules, request);
  take_prompt(body, rules, request);
  for (const char* any : {"model", "user", "metadata"}) static_cast<void>(body.take(any));
  refuse_others(body);

  const std::int64_t tokens = static_cast<std::int64_t>(request.prompt.size()) + request.max_tokens;
  if (tokens > rules.max_positions) {
    throw Wrong{"context_length_exceeded", body.path("prompt") + ": found " + std::to_string(request.prompt.size()) +
                                               " tokens and max_tokens " + std::to_string(request.max_tokens) +
                                               ", expected at most " + std::to_string(rules.max_positions) +
                                               " together, the model's positions"};
  }
}

void expect_text(Fields& fields, const char* name, const char* code, const char* only) {
  const std::optional<Json> value = fields.take(name);
  if (!value) throw missing(name, only);
  if (*value != only) throw Wrong{code, std::string(name) + ": found " + shown(*value) + ", expected " + only};
}

void take_line(std::string_view line, const RequestRules& rules, Request& request) {
  Fields fields(parse_json(line), "");
  const std::optional<Json> custom_id = fields.take("custom_id");
  if (!custom_id) throw missing("custom_id", "a text that is not empty");
  if (!custom_id->is_string() || custom_id->get_ref<const std::string&>().empty()) {
    throw wrong_value("custom_id", shown(*custom_id), "a text that is not empty");
  }
  request.custom_id = custom_id->get<std::string>();
  expect_text(fields, "method", "invalid_method", "POST");
  expect_text(fields, "url", "invalid_url", "/v1/completions");
  std::optional<Json> body = fields.take("body");
  if (!body) throw missing("body", "an object");
  if (!body->is_object()) throw wrong_value("body", shown(*body), "an object");
  refuse_others(fields);
  Fields parameters(std::move(*body), "body.");
  take_body(parameters, rules, request);
}

}  // namespace

RequestOrError parse_request(std::string_view line, std::int64_t number, const RequestRules& rules) {
  Request request;
  request.line = number;
  try {
    take_line(line, rules, request);
    return request;
  } catch (const Wrong& wrong) {
    return RequestError{request.custom_id, number, wrong.code, "line " + std::to_string(number) + ": " + wrong.message};
  }
}

}  // namespace coterie
