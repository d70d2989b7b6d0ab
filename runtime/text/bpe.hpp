// Byte-pair encoding: pieces of text to tokens by merging neighbours, the most frequent pairs of the training text
// first.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace coterie {

/// Tokens as pieces of text have them, and their ids.
struct TokenTextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
};
using BpeVocabulary = std::unordered_map<std::string, std::int32_t, TokenTextHash, std::equal_to<>>;

struct BpeOptions {
  bool bytes = false;          ///< a piece begins as bytes, not as characters
  bool byte_fallback = false;  ///< a character without a token becomes tokens such as <0xE2>
  bool fuse_unknown = false;   ///< unknown characters beside one another become one token
  bool ignore_merges = false;  ///< a piece that is a token is that token, whatever the merges say
  std::string unknown;         ///< the token of unknown characters; empty: they vanish
};

/// Sennrich et al. (arXiv 1508.07909), with the order of merges of HF `tokenizers`. Takes time n log n for a piece of n
/// characters. All members may be called from several threads.
class Bpe {
 public:
  struct Merge {
    std::string left, right;
  };

  /// `merges` in order. Throws std::invalid_argument, which names the token, where a merge needs one that isn't there.
  Bpe(BpeVocabulary vocabulary, const std::vector<Merge>& merges, BpeOptions options);

  /// Appends the ids of the tokens of `piece`.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

 private:
  struct Symbol {
    std::int32_t id;
    std::int32_t before, next;  ///< indices of neighbours; -1: none
  };
  struct Product {
    std::uint64_t pair;
    std::int32_t rank, id;
  };
  enum Whole : std::uint8_t { unknown, yes, no };

  [[nodiscard]] std::int32_t find(std::string_view token) const;
  [[nodiscard]] std::size_t slot(std::uint64_t pair) const noexcept;
  [[nodiscard]] const Product* product(std::int32_t left, std::int32_t right) const noexcept;
  [[nodiscard]] bool merges_to_itself(std::string_view piece, std::int32_t id) const;
  void begin(std::string_view piece, std::vector<std::int32_t>& ids) const;
  void merge_few(std::vector<std::int32_t>& ids, std::size_t first) const;
  void merge_many(std::vector<std::int32_t>& ids, std::size_t first) const;
  void merge_all(std::string_view piece, std::vector<std::int32_t>& ids) const;

  BpeOptions options_;
  BpeVocabulary vocabulary_;
  std::array<std::int32_t, 256> of_byte_{};   ///< tokens of one byte; -1: none
  std::array<std::int32_t, 256> fallback_{};  ///< tokens such as <0xE2>; -1: none
  std::int32_t unknown_ = -1;
  std::vector<Product> products_;                ///< a hash table with open addressing; pair is ~0 where it is empty
  std::unique_ptr<std::atomic<Whole>[]> whole_;  ///< (ids): whether a token's text merges to that token, once known
};

}  // namespace coterie
