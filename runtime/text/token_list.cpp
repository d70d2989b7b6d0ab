#include "runtime/text/token_list.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace coterie {
namespace {

using Json = nlohmann::json;

AddedToken added_token(const JsonField& fields) {
  const bool special = fields.flag("special", false);
  return {0,
          fields.text("content"),
          special,
          fields.flag("normalized", !special),
          fields.flag("single_word", false),
          fields.flag("lstrip", false),
          fields.flag("rstrip", false)};
}

}  // namespace

TokenList::TokenList(const JsonField& file, const JsonField& model, const JsonField& config) {
  const Json& vocabulary = model["vocab"];
  if (!vocabulary.is_object() || vocabulary.empty()) model.refuse("vocab", "an object with tokens and their ids");
  for (const auto& [token, id] : vocabulary.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= kMostTokens) {
      throw bad_field(model.file().string(), model.path("vocab") + "[\"" + token + "\"]", id.dump(),
                      "a token id, below " + std::to_string(kMostTokens));
    }
    ids_.emplace_hint(ids_.end(), token, id.get<std::int32_t>());
  }
  next_ = static_cast<std::int32_t>(ids_.size());
  read_added(file, config);
}

void TokenList::read_added(const JsonField& file, const JsonField& config) {
  if (!file["added_tokens"].is_null()) {
    for (const JsonField& fields : file.objects("added_tokens")) {
      AddedToken token = added_token(fields);
      if (token.text.empty()) continue;
      const std::int32_t id = add(std::move(token));
      if (fields.number("id", id) != id) fields.refuse("id", std::to_string(id) + ", which HF gives this token");
    }
  }
  if (const Json& more = config["added_tokens_decoder"]; more.is_object()) {
    std::map<long, const Json*> in_order;
    for (const auto& [id, token] : more.items()) in_order[std::atol(id.c_str())] = &token;
    for (const auto& [id, json] : in_order) {
      const std::string name = config.path("added_tokens_decoder") + "." + std::to_string(id);
      AddedToken token = added_token(JsonField(*json, name, config.file()));
      if (!token.text.empty()) add(std::move(token));
    }
  }
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    name_special(named_token(config[name]));
  }
  for (const char* list : {"additional_special_tokens", "extra_special_tokens"}) {
    if (!config[list].is_structured()) continue;
    for (const Json& token : config[list]) name_special(named_token(token));
  }
}

std::optional<std::int32_t> TokenList::find(const std::string& text) const {
  const auto found = ids_.find(text);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

/// Replaces an added token of the same text. The id in `token` doesn't count; returns the one that it gets.
std::int32_t TokenList::add(AddedToken token) {
  const auto [found, is_new] = ids_.emplace(token.text, next_);
  if (is_new) ++next_;
  token.id = found->second;
  const auto old = std::find_if(added_.begin(), added_.end(), [&](const auto& t) { return t.text == token.text; });
  if (old == added_.end()) {
    added_.push_back(std::move(token));
  } else {
    token.special = token.special || old->special;
    *old = std::move(token);
  }
  return found->second;
}

/// Makes a token special, and adds it where there is none of this text.
void TokenList::name_special(const std::string& text) {
  if (text.empty()) return;
  const auto old = std::find_if(added_.begin(), added_.end(), [&](const auto& t) { return t.text == text; });
  if (old == added_.end()) {
    add({0, text, true, false, false, false, false});
  } else {
    old->special = true;
  }
}

std::string named_token(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value["content"].is_string()) return value["content"];
  return {};
}

}  // namespace coterie
