// A tokenizer for tests: a list of pieces, and text that is encoded byte by byte.
#pragma once

#include "runtime/text/tokenizer.hpp"

#include <string>
#include <utility>
#include <vector>

namespace coterie {

class FakeTokenizer final : public Tokenizer {
 public:
  static FakeTokenizer with(std::vector<Piece> pieces, Decoding decoding) { return {std::move(pieces), decoding}; }

  /// Control "</s>" is id 0, then a byte piece for each byte value, then these texts from id 257.
  static FakeTokenizer bytes_and(const std::vector<std::string>& texts, LeadingSpace space = LeadingSpace::drop_one) {
    std::vector<Piece> pieces{{PieceKind::control, "</s>"}};
    for (int b = 0; b < 256; ++b) pieces.push_back({PieceKind::byte, std::string(1, static_cast<char>(b))});
    for (const std::string& text : texts) pieces.push_back({PieceKind::text, text});
    return {std::move(pieces), {space, BrokenBytes::each, false}};
  }
  static std::int32_t byte(unsigned char b) { return 1 + b; }
  static std::int32_t text(int index) { return 257 + index; }

  std::int32_t vocabulary() const noexcept override { return static_cast<std::int32_t>(pieces_.size()); }
  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options = {}) const override {
    std::vector<std::int32_t> ids;
    if (options.add_special_tokens) ids.push_back(0);
    const std::string& name = pieces_[0].text;
    for (std::size_t at = 0; at < text.size();) {
      const bool control = options.parse_special_tokens && text.substr(at).starts_with(name) &&
                           !options.has_border(at, at + name.size());
      ids.push_back(control ? 0 : byte(static_cast<unsigned char>(text[at])));
      at += control ? name.size() : 1;
    }
    return ids;
  }
  const Piece& piece(std::int32_t id) const noexcept override {
    return id >= 0 && id < vocabulary() ? pieces_[id] : nameless_;
  }
  Decoding decoding() const noexcept override { return decoding_; }
  std::optional<std::int32_t> special_token(std::string_view name) const override {
    return name == pieces_[0].text ? std::optional<std::int32_t>(0) : std::nullopt;
  }
  std::optional<std::int32_t> begin_of_sequence() const noexcept override { return 0; }
  std::optional<std::int32_t> end_of_sequence() const noexcept override { return 0; }

 private:
  FakeTokenizer(std::vector<Piece> pieces, Decoding decoding) : pieces_(std::move(pieces)), decoding_(decoding) {}

  std::vector<Piece> pieces_;
  Decoding decoding_;
  Piece nameless_;
};

}  // namespace coterie
