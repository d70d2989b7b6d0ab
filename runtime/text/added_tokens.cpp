#include "runtime/text/added_tokens.hpp"

#include "runtime/text/character_properties.hpp"
#include "runtime/text/utf8.hpp"

#include <algorithm>
#include <utility>

namespace coterie {
namespace {

std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool has(std::string_view character, const char* property) {
  return (properties_of(code_point(character)) & *character_properties(property)) != 0;
}

std::size_t spaces_at_start(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size() && has(text.substr(end), "s")) end += first_character(text.substr(end)).bytes;
  return end;
}

/// Where the spaces at the end of `text` begin.
std::size_t spaces_at_end(std::string_view text) {
  while (!text.empty()) {
    const std::size_t last = last_character(text);
    if (!has(text.substr(last), "s")) break;
    text = text.substr(0, last);
  }
  return text.size();
}

bool stands_alone(std::string_view before, std::string_view behind) {
  return (before.empty() || !has(before.substr(last_character(before)), "JoinsWord")) &&
         (behind.empty() || !has(behind, "JoinsWord"));
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const auto& a, const auto& b) { return a.text < b.text; });
  tokens_.erase(
      std::unique(tokens_.begin(), tokens_.end(), [](const auto& a, const auto& b) { return a.text == b.text; }),
      tokens_.end());
  for (const AddedToken& token : tokens_) ++first_of_[static_cast<unsigned char>(token.text.front()) + 1];
  for (std::size_t b = 0; b < 256; ++b) first_of_[b + 1] += first_of_[b];
}

const AddedToken* AddedTokens::longest_at(std::string_view text) const {
  if (text.empty()) return nullptr;
  const auto first = static_cast<unsigned char>(text.front());
  auto low = tokens_.begin() + static_cast<std::ptrdiff_t>(first_of_[first]);
  auto high = tokens_.begin() + static_cast<std::ptrdiff_t>(first_of_[first + 1]);
  const AddedToken* longest = nullptr;
  // low to high: the tokens that begin as `text` does for `size` bytes; one that ends there is the first of them.
  for (std::size_t size = 1; low != high; ++size) {
    if (low->text.size() == size) longest = &*low++;
    if (size == text.size()) break;
    const auto byte = [&](const AddedToken& t) { return static_cast<unsigned char>(t.text[size]); };
    const auto next = static_cast<unsigned char>(text[size]);
    low = std::partition_point(low, high, [&](const AddedToken& t) { return byte(t) < next; });
    high = std::partition_point(low, high, [&](const AddedToken& t) { return byte(t) == next; });
  }
  return longest;
}

std::vector<AddedTokens::Found> AddedTokens::find_all(std::string_view text, const EncodeOptions& options,
                                                      std::size_t offset) const {
  std::vector<Found> found;
  if (tokens_.empty()) return found;
  std::size_t taken = 0;  // the end of the last token found, with the spaces that it took
  for (std::size_t at = 0; at < text.size();) {
    const auto first = static_cast<unsigned char>(text[at]);
    const AddedToken* token = first_of_[first] == first_of_[first + 1] ? nullptr : longest_at(text.substr(at));
    const auto crosses_a_border = [&] {
      return token->special && options.parse_special_tokens &&
             options.has_border(offset + at, offset + at + token->text.size());
    };
    // A shorter one may fit before the border.
    while (token != nullptr && crosses_a_border()) token = longest_at(text.substr(at, token->text.size() - 1));
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at, end = at + token->text.size();
    at = end;
    if (token->special && !options.parse_special_tokens) continue;
    if (token->single_word && !stands_alone(text.substr(0, begin), text.substr(end))) continue;
    if (token->lstrip) begin = std::max(spaces_at_end(text.substr(0, begin)), taken);
    if (token->rstrip) end += spaces_at_start(text.substr(end));
    found.push_back({token, begin, end});
    taken = end;
  }
  return found;
}

}  // namespace coterie
