// A tokenizer for tests: a list of pieces, and text that is encoded byte by byte.
#pragma once

#include "runtime/tokenizer.hpp"

#include <string>
#include <utility>
#include <vector>

namespace coterie {

class FakeTokenizer final : public Tokenizer {
 public:
  explicit FakeTokenizer(std::vector<Piece> pieces, LeadingSpace leading_space = LeadingSpace::drop_one)
      : pieces_(std::move(pieces)), leading_space_(leading_space) {}

  /// Control "</s>" is id 0, then a byte piece for each byte value, then these texts from id 257.
  static FakeTokenizer bytes_and(const std::vector<std::string>& texts, LeadingSpace space = LeadingSpace::drop_one) {
    std::vector<Piece> pieces{{PieceKind::control, "</s>"}};
    for (int b = 0; b < 256; ++b) pieces.push_back({PieceKind::byte, std::string(1, static_cast<char>(b))});
    for (const std::string& text : texts) pieces.push_back({PieceKind::text, text});
    return FakeTokenizer(std::move(pieces), space);
  }
  static std::int32_t byte(unsigned char b) { return 1 + b; }
  static std::int32_t text(int index) { return 257 + index; }

  std::int32_t vocabulary() const noexcept override { return static_cast<std::int32_t>(pieces_.size()); }
  std::vector<std::int32_t> encode(std::string_view text, bool special_tokens) const override {
    std::vector<std::int32_t> ids;
    if (special_tokens) ids.push_back(0);
    for (const char c : text) ids.push_back(byte(static_cast<unsigned char>(c)));
    return ids;
  }
  const Piece& piece(std::int32_t id) const noexcept override {
    return id >= 0 && id < vocabulary() ? pieces_[id] : nameless_;
  }
  LeadingSpace leading_space() const noexcept override { return leading_space_; }

 private:
  std::vector<Piece> pieces_;
  LeadingSpace leading_space_;
  Piece nameless_;
};

}  // namespace coterie
