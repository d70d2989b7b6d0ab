// The decoders of tokenizer.json files: what each token is in a text.
#pragma once

#include "runtime/text/tokenizer.hpp"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace coterie {

/// ByteLevel, Replace (of a string), Metaspace, ByteFallback, Fuse, Strip (of spaces at the start) and sequences of
/// them in an order in which tokens can be decoded one at a time.
class PieceReader {
 public:
  /// `json` is the file's field `decoder`; null puts a space between tokens. Throws InputError for kinds, options and
  /// orders that aren't known here.
  PieceReader(const nlohmann::json& json, const std::filesystem::path& file);

  /// Of a token that isn't special; `token` as the file spells it.
  [[nodiscard]] Tokenizer::Piece read(std::string_view token) const;
  [[nodiscard]] Tokenizer::Decoding decoding() const noexcept { return decoding_; }

 private:
  enum class Stage { tokens, bytes, text };  ///< what the steps so far make: a text for each token, bytes too, one text
  void add(const nlohmann::json& json, const std::string& field, const std::filesystem::path& file);

  std::vector<std::pair<std::string, std::string>> replacements_;
  bool byte_level_ = false, byte_fallback_ = false, joined_by_spaces_ = false;
  Stage stage_ = Stage::tokens;
  Tokenizer::Decoding decoding_;
};

}  // namespace coterie
