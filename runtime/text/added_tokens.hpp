// Added tokens: texts that stand for one token wherever they occur, whatever the model would make of them.
#pragma once

#include "runtime/text/tokenizer.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

struct AddedToken {
  std::int32_t id = 0;
  std::string text;
  bool special = false;      ///< has no text of its own when decoded, and is text where special tokens aren't obeyed
  bool normalized = false;   ///< looked for in the normalized text
  bool single_word = false;  ///< not beside a letter or digit
  bool lstrip = false;       ///< takes the spaces before it
  bool rstrip = false;       ///< takes the spaces behind it
};

/// Finds added tokens in a text: at each place the longest one.
class AddedTokens {
 public:
  struct Found {
    const AddedToken* token = nullptr;
    std::size_t begin = 0, end = 0;  ///< bytes, with the spaces that it takes
  };

  /// `tokens` without those with an empty text. Of two with one text the first counts.
  explicit AddedTokens(std::vector<AddedToken> tokens = {});

  [[nodiscard]] bool empty() const noexcept { return tokens_.empty(); }
  /// In order. Where special tokens aren't parsed they are not tokens, and hide what is inside them. `text` begins at
  /// `offset` of the text that the borders in `options` are of.
  [[nodiscard]] std::vector<Found> find_all(std::string_view text, const EncodeOptions& options,
                                            std::size_t offset = 0) const;

 private:
  [[nodiscard]] const AddedToken* longest_at(std::string_view text) const;

  std::vector<AddedToken> tokens_;           ///< by text
  std::array<std::size_t, 257> first_of_{};  ///< tokens whose text begins with byte b are [b], [b + 1]
};

}  // namespace coterie
