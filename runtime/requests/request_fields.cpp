#include "runtime/requests/request_fields.hpp"

#include <algorithm>
#include <array>

namespace coterie {
namespace {

using Json = nlohmann::json;

/// Parameters that this program doesn't have, with the value at which they change nothing.
const std::array<std::pair<const char*, Json>, 20>& neutral_values() {
  static const std::array<std::pair<const char*, Json>, 20> values{{{"n", 1},
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
                                                                    {"spaces_between_special_tokens", true},
                                                                    {"return_tokens_as_token_ids", false},
                                                                    {"logprobs_mode", "raw_logprobs"},
                                                                    {"echo", false},
                                                                    {"parallel_tool_calls", true},
                                                                    {"response_format", {{"type", "text"}}},
                                                                    {"store", false},
                                                                    {"modalities", Json::array({"text"})}}};
  return values;
}

}  // namespace

std::string shown(const Json& value) {
  constexpr std::size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kLongest) text.replace(kLongest, std::string::npos, "...");
  return text;
}

WrongRequest wrong_value(const std::string& field, const std::string& found, const std::string& expected) {
  return {"invalid_value", field + ": found " + found + ", expected " + expected};
}

WrongRequest missing_value(const std::string& field, const std::string& expected) {
  return {"missing_required_parameter", field + ": found nothing, expected " + expected};
}

std::optional<Json> RequestFields::take(const char* name) {
  const auto found = object_.find(name);
  if (found == object_.end()) return std::nullopt;
  Json value = std::move(*found);
  object_.erase(found);
  if (value.is_null()) return std::nullopt;
  return value;
}

std::optional<bool> RequestFields::flag(const char* name) {
  const auto value = take(name);
  if (!value) return std::nullopt;
  if (!value->is_boolean()) throw wrong_value(path(name), shown(*value), "true or false");
  return value->get<bool>();
}

std::int64_t RequestFields::integer(const char* name, std::int64_t otherwise, std::int64_t least, std::int64_t most,
                                    const std::string& expected) {
  const auto value = take(name);
  return value ? checked_integer(*value, path(name), least, most, expected) : otherwise;
}

std::int64_t RequestFields::checked_integer(const Json& value, const std::string& field, std::int64_t least,
                                            std::int64_t most, const std::string& expected) {
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || value.get<std::uint64_t>() <= static_cast<std::uint64_t>(most));
  if (!fits || value.get<std::int64_t>() < least || value.get<std::int64_t>() > most) {
    throw wrong_value(field, shown(value), expected);
  }
  return value.get<std::int64_t>();
}

void RequestFields::refuse_others() const {
  const auto& neutral = neutral_values();
  for (const auto& parameter : object_.items()) {
    const Json& value = parameter.value();
    if (value.is_null()) continue;
    const auto* known =
        std::find_if(neutral.begin(), neutral.end(), [&](const auto& n) { return n.first == parameter.key(); });
    const std::string field = path(shown(parameter.key()).c_str());
    if (known == neutral.end()) {
      throw WrongRequest{"unsupported_parameter", field + ": this parameter is not supported"};
    }
    if (value != known->second) {
      throw WrongRequest{"unsupported_parameter", field + ": found " + shown(value) + ", expected " +
                                                      shown(known->second) + ": others are not supported"};
    }
  }
}

}  // namespace coterie
