// Token ids to text as they come, one at a time.
#pragma once

#include "runtime/tokenizer.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace coterie {

/// Decodes a sequence from its first token on. What `add` returned stays valid: the pieces put together are the decoded
/// sequence, and each is whole UTF-8. Bytes that make no character become U+FFFD, one each.
class TextDecoder {
 public:
  /// `tokenizer` must outlive this object.
  explicit TextDecoder(const Tokenizer& tokenizer)
      : tokenizer_(&tokenizer), at_start_(tokenizer.leading_space() != Tokenizer::LeadingSpace::keep) {}

  /// The text that is certain since the last call; empty while the bytes of a character are still arriving.
  [[nodiscard]] std::string add(std::int32_t token);
  /// What is left at the end of the sequence: the bytes of a character that never became whole.
  [[nodiscard]] std::string finish();

 private:
  [[nodiscard]] std::string take_bytes(bool all);

  const Tokenizer* tokenizer_;
  bool at_start_;      ///< no text yet, and spaces there are to be dropped
  std::string bytes_;  ///< of an unfinished character
};

/// The text of a whole sequence.
[[nodiscard]] std::string decode(const Tokenizer& tokenizer, std::span<const std::int32_t> tokens);

}  // namespace coterie
