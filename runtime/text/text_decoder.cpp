#include "runtime/text/text_decoder.hpp"

#include "runtime/text/utf8.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

namespace coterie {
namespace {

using BrokenBytes = Tokenizer::BrokenBytes;
using LeadingSpace = Tokenizer::LeadingSpace;

constexpr std::string_view kReplacement = "\uFFFD";

std::string replacements(std::size_t count) {
  std::string text;
  while (count-- > 0) text += kReplacement;
  return text;
}

/// Bytes of the whole characters with which `text` begins, and how the first one behind them looks.
std::pair<std::size_t, Utf8Character::State> whole_characters(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size()) {
    const Utf8Character next = first_character(text.substr(end));
    if (next.state != Utf8Character::whole) return {end, next.state};
    end += next.bytes;
  }
  return {end, Utf8Character::whole};
}

}  // namespace

/// What of `bytes_` is certain while more bytes may come.
std::string TextDecoder::take_characters() {
  if (decoding_.broken_bytes == BrokenBytes::run) {
    run_broken_ = run_broken_ || whole_characters(bytes_).second == Utf8Character::broken;
    return run_broken_ ? replacements(std::exchange(bytes_, {}).size()) : std::string();
  }
  std::string text;
  std::string_view rest = bytes_;
  while (!rest.empty()) {
    const Utf8Character next = first_character(rest);
    if (next.state == Utf8Character::incomplete) break;
    const bool whole = next.state == Utf8Character::whole;
    const std::size_t taken = whole || decoding_.broken_bytes == BrokenBytes::subpart ? next.bytes : 1;
    text += whole ? rest.substr(0, taken) : kReplacement;
    rest.remove_prefix(taken);
  }
  bytes_.erase(0, bytes_.size() - rest.size());
  return text;
}

/// All of `bytes_`: no more will come.
std::string TextDecoder::take_bytes() {
  std::string text = take_characters();
  const auto [whole, next] = whole_characters(bytes_);
  if (next == Utf8Character::whole) {
    text += bytes_;
  } else {  // one unfinished character, behind whole ones only in a run
    text += replacements(decoding_.broken_bytes == BrokenBytes::subpart ? 1 : bytes_.size());
  }
  bytes_.clear();
  run_broken_ = false;
  return text;
}

std::string TextDecoder::without_leading_space(std::string text) {
  if (!at_start_ || text.empty()) return text;
  const std::size_t spaces = std::min(text.find_first_not_of(' '), text.size());
  switch (decoding_.leading_space) {
    case LeadingSpace::keep:
      break;
    case LeadingSpace::drop_one:
      text.erase(0, std::min<std::size_t>(spaces, 1));
      break;
    case LeadingSpace::drop_all:
      text.erase(0, spaces);
      if (text.empty()) return text;
      break;
    case LeadingSpace::drop_in_first_piece:
      std::erase(text, ' ');
      break;
  }
  at_start_ = false;
  return text;
}

std::string TextDecoder::add(std::int32_t token) {
  const Tokenizer::Piece& piece = tokenizer_->piece(token);
  Tokenizer::PieceKind kind = piece.kind;
  if (kind == Tokenizer::PieceKind::control && !skip_special_tokens_) {
    // Between pieces of bytes a name is bytes too: what is broken around it is one text.
    const bool bytes = decoding_.broken_bytes == BrokenBytes::subpart;
    kind = bytes ? Tokenizer::PieceKind::byte : Tokenizer::PieceKind::text;
  }
  switch (kind) {
    case Tokenizer::PieceKind::byte:
      // In sentencepiece only pieces of text lose their space; elsewhere the text does, whatever it was made of.
      if (decoding_.broken_bytes == BrokenBytes::each) at_start_ = false;
      bytes_ += piece.text;
      return without_leading_space(take_characters());
    case Tokenizer::PieceKind::control:
      return decoding_.join_over_controls ? std::string() : without_leading_space(take_bytes());
    case Tokenizer::PieceKind::text:
      break;
  }
  std::string text = without_leading_space(take_bytes());
  text += without_leading_space(piece.text);
  return text;
}

std::string TextDecoder::pending() const {
  if (decoding_.broken_bytes != BrokenBytes::run) return {};
  return TextDecoder(*this).without_leading_space(bytes_.substr(0, whole_characters(bytes_).first));
}

std::string TextDecoder::settle() {
  std::string text = pending();
  if (decoding_.broken_bytes == BrokenBytes::run) bytes_.erase(0, whole_characters(bytes_).first);
  at_start_ = at_start_ && text.empty();
  return text;
}

std::string TextDecoder::finish() {
  return without_leading_space(take_bytes());
}

std::string decode(const Tokenizer& tokenizer, std::span<const std::int32_t> tokens) {
  TextDecoder decoder(tokenizer);
  std::string text;
  for (const std::int32_t token : tokens) text += decoder.add(token);
  return text + decoder.finish();
}

}  // namespace coterie
