#include "runtime/text_decoder.hpp"

#include "runtime/utf8.hpp"

#include <string_view>

namespace coterie {

std::string TextDecoder::take_bytes(bool all) {
  std::string text;
  std::string_view rest = bytes_;
  while (!rest.empty()) {
    const Utf8Character character = first_character(rest);
    if (character.state == Utf8Character::incomplete && !all) break;
    if (character.state == Utf8Character::whole) {
      text += rest.substr(0, character.bytes);
      rest.remove_prefix(character.bytes);
    } else {
      text += "\uFFFD";
      rest.remove_prefix(1);
    }
  }
  bytes_.erase(0, bytes_.size() - rest.size());
  return text;
}

std::string TextDecoder::add(std::int32_t token) {
  const Tokenizer::Piece& piece = tokenizer_->piece(token);
  if (piece.kind == Tokenizer::PieceKind::byte) {
    at_start_ = false;
    bytes_ += piece.text;
    return take_bytes(false);
  }
  std::string text = take_bytes(true);
  if (piece.kind == Tokenizer::PieceKind::control) return text;
  std::string_view own = piece.text;
  if (at_start_) {
    const std::size_t spaces = std::min(own.find_first_not_of(' '), own.size());
    const bool all = tokenizer_->leading_space() == Tokenizer::LeadingSpace::drop_all;
    own.remove_prefix(all ? spaces : std::min<std::size_t>(spaces, 1));
    at_start_ = all && own.empty();
  }
  text += own;
  return text;
}

std::string TextDecoder::finish() {
  return take_bytes(true);
}

std::string decode(const Tokenizer& tokenizer, std::span<const std::int32_t> tokens) {
  TextDecoder decoder(tokenizer);
  std::string text;
  for (const std::int32_t token : tokens) text += decoder.add(token);
  return text + decoder.finish();
}

}  // namespace coterie
