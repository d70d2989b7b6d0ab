// Regular expressions on classes of characters: exact for HF's Unicode version, and as fast as on bytes.
#pragma once

#include "runtime/text/pattern_parser.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace coterie {

/// Maps each character to a byte such that characters with one byte are alike to all of some patterns. ASCII characters
/// keep theirs.
class CharacterClasses {
 public:
  /// Throws std::invalid_argument when the patterns tell more than 128 classes apart.
  explicit CharacterClasses(const std::vector<PatternParts>& patterns);

  [[nodiscard]] char operator[](char32_t code_point) const noexcept { return table_[code_point]; }
  /// The bytes of the characters in `set`, which is of one of the patterns, as a PCRE2 class of bytes.
  [[nodiscard]] std::string bytes_of(const CharacterSet& set) const;

 private:
  std::string table_;                     ///< (0x110000)
  std::vector<char32_t> representative_;  ///< (classes from 128 on): a member
};

/// A pattern for texts in which each character is the byte of its class.
class CharacterPattern {
 public:
  /// Throws std::invalid_argument with PCRE2's message where it can't be compiled, or when it matches the empty text.
  CharacterPattern(const PatternParts& parts, const CharacterClasses& classes);

  /// The first match at or behind `from`, as begin and end; both are text.size() where there is none.
  [[nodiscard]] std::pair<std::size_t, std::size_t> find(std::string_view text, std::size_t from) const;

 private:
  struct FreeCode {
    void operator()(void* code) const noexcept;
  };
  std::unique_ptr<void, FreeCode> code_;
};

}  // namespace coterie
