// All tokens of a tokenizer.json and the tokenizer_config.json beside it, with ids as HF gives them.
#pragma once

#include "runtime/text/added_tokens.hpp"
#include "runtime/text/json_field.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

class TokenList {
 public:
  /// `model` is the field of that name of `file`. Added tokens come from `added_tokens`, then from
  /// `added_tokens_decoder` of `config`; the tokens that `config` names (`bos_token`, ...) are special, and added where
  /// there is none.
  TokenList(const JsonField& file, const JsonField& model, const JsonField& config);

  [[nodiscard]] std::optional<std::int32_t> find(const std::string& text) const;
  [[nodiscard]] const std::map<std::string, std::int32_t>& ids() const noexcept { return ids_; }
  /// In the order in which they were added.
  [[nodiscard]] const std::vector<AddedToken>& added() const noexcept { return added_; }

 private:
  void read_added(const JsonField& file, const JsonField& config);
  std::int32_t add(AddedToken token);
  void name_special(const std::string& text);

  std::map<std::string, std::int32_t> ids_;
  std::int32_t next_ = 0;  ///< the id of the next token that is added
  std::vector<AddedToken> added_;
};

/// A token that tokenizer_config.json names, as text or as an object with `content`; empty where it names none.
[[nodiscard]] std::string named_token(const nlohmann::json& value);

}  // namespace coterie
