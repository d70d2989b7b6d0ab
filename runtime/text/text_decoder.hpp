// Token ids to text as they come, one at a time.
#pragma once

#include "runtime/text/tokenizer.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace coterie {

/// Decodes a sequence from its first token on, without its special tokens or with their names. What `add` returned
/// stays valid: the pieces put together are the decoded sequence, and each is whole UTF-8.
class TextDecoder {
 public:
  /// `tokenizer` must outlive this object.
  explicit TextDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true)
      : tokenizer_(&tokenizer), decoding_(tokenizer.decoding()), skip_special_tokens_(skip_special_tokens) {}

  /// The text that is certain since the last call; empty while the bytes of a character are still arriving.
  [[nodiscard]] std::string add(std::int32_t token);
  /// Whole characters that are the text if the sequence ends here or goes on with text, and are not if bytes follow
  /// that make no character (Tokenizer::BrokenBytes::run).
  [[nodiscard]] std::string pending() const;
  /// Makes what is pending certain, and gives it: for the end of a prompt, whose text no continuation changes.
  [[nodiscard]] std::string settle();
  /// What is left at the end of the sequence: pending text, and the bytes of a character that never became whole.
  [[nodiscard]] std::string finish();

 private:
  [[nodiscard]] std::string take_characters();
  [[nodiscard]] std::string take_bytes();
  [[nodiscard]] std::string without_leading_space(std::string text);

  const Tokenizer* tokenizer_;
  Tokenizer::Decoding decoding_;
  bool skip_special_tokens_;
  bool at_start_ = true;     ///< no text yet
  bool run_broken_ = false;  ///< a byte of this run made no character
  std::string bytes_;        ///< of an unfinished character, or of an unfinished run
};

/// The text of a whole sequence.
[[nodiscard]] std::string decode(const Tokenizer& tokenizer, std::span<const std::int32_t> tokens);

}  // namespace coterie
