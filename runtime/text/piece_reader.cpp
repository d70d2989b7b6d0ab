#include "runtime/text/piece_reader.hpp"

#include "runtime/text/json_field.hpp"
#include "runtime/text/pre_tokenizer.hpp"

#include <charconv>
#include <optional>

namespace coterie {
namespace {

using Piece = Tokenizer::Piece;
using PieceKind = Tokenizer::PieceKind;

/// The byte of a token such as <0xE2>.
std::optional<char> fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  unsigned byte = 0;
  const char* last = token.data() + 5;
  const auto [end, error] = std::from_chars(token.data() + 3, last, byte, 16);
  return error == std::errc() && end == last ? std::optional(static_cast<char>(byte)) : std::nullopt;
}

}  // namespace

PieceReader::PieceReader(const nlohmann::json& json, const std::filesystem::path& file) {
  using Tok = Tokenizer;
  decoding_ = {Tok::LeadingSpace::keep, Tok::BrokenBytes::run, true};
  if (json.is_null()) {
    joined_by_spaces_ = true;
    decoding_.leading_space = Tok::LeadingSpace::drop_one;
  } else {
    add(json, "decoder", file);
  }
}

void PieceReader::add(const nlohmann::json& json, const std::string& field, const std::filesystem::path& file) {
  const JsonField fields(json, field, file);
  const std::string type = fields.text("type");
  if (type == "Sequence") {
    const nlohmann::json& list = fields["decoders"];
    if (!list.is_array()) fields.refuse("decoders", "a list of decoders");
    for (std::size_t i = 0; i < list.size(); ++i) add(list[i], field + ".decoders[" + std::to_string(i) + "]", file);
    return;
  }
  const auto need = [&](bool holds, const char* expected) {
    if (!holds) fields.refuse("type", std::string(expected) + ": other orders are not supported");
  };
  const bool anything_before = stage_ != Stage::tokens || !replacements_.empty();
  if (type == "ByteLevel") {
    need(!anything_before, "ByteLevel as the first of a sequence");
    byte_level_ = true;
    decoding_.broken_bytes = Tokenizer::BrokenBytes::subpart;
    stage_ = Stage::text;
  } else if (type == "Replace") {
    need(stage_ == Stage::tokens, "Replace before ByteFallback, ByteLevel and Fuse");
    const JsonField pattern(fields["pattern"], fields.path("pattern"), file);
    const std::string from = pattern.text("String");
    if (from.empty()) pattern.refuse("String", "a text that is not empty");
    replacements_.emplace_back(from, fields.text("content"));
  } else if (type == "Metaspace") {
    need(!anything_before, "Metaspace as the first of a sequence");
    replacements_.emplace_back(fields.text("replacement", "\u2581"), " ");
    const std::string scheme =
        fields.text("prepend_scheme", fields.flag("add_prefix_space", true) ? "always" : "never");
    if (scheme != "never") decoding_.leading_space = Tokenizer::LeadingSpace::drop_in_first_piece;
  } else if (type == "ByteFallback") {
    need(stage_ == Stage::tokens, "ByteFallback once, before Fuse");
    byte_fallback_ = true;
    stage_ = Stage::bytes;
  } else if (type == "Fuse") {
    stage_ = Stage::text;
  } else if (type == "Strip") {
    need(stage_ == Stage::text && decoding_.leading_space == Tokenizer::LeadingSpace::keep, "Strip once, behind Fuse");
    if (fields.text("content") != " ") fields.refuse("content", "a space");
    if (fields.number("stop", 0) != 0) fields.refuse("stop", "0");
    if (fields.number("start", 0) > 1) fields.refuse("start", "0 or 1");
    if (fields.number("start", 0) == 1) decoding_.leading_space = Tokenizer::LeadingSpace::drop_one;
  } else {
    fields.refuse("type",
                  "Sequence, ByteLevel, Replace, Metaspace, ByteFallback, Fuse or Strip: others are not supported");
  }
}

Piece PieceReader::read(std::string_view token) const {
  // A token with a character that spells no byte stands for itself.
  if (byte_level_) return {PieceKind::byte, bytes_spelled(token).value_or(std::string(token))};
  std::string text(token);
  for (const auto& [from, to] : replacements_) {
    for (std::size_t at = text.find(from); at != std::string::npos; at = text.find(from, at + to.size())) {
      text.replace(at, from.size(), to);
    }
  }
  if (byte_fallback_) {
    if (const auto byte = fallback_byte(text)) return {PieceKind::byte, std::string(1, *byte)};
  }
  return {PieceKind::text, joined_by_spaces_ ? " " + text : text};
}

}  // namespace coterie
