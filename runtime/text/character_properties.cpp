#include "runtime/text/character_properties.hpp"

#include <algorithm>
#include <array>

namespace coterie {
namespace {

// The order of bits in the table.
constexpr std::array<std::string_view, 36> kNames{
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me",  "Nd",       "Nl",       "No",      "Pc",
    "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc",  "Sk",       "So",       "Zs",      "Zl",
    "Zp", "Cc", "Cf", "Co", "Cn", "s",  "w",  "Han", "Hiragana", "Katakana", "Numeric", "JoinsWord"};
constexpr std::size_t kCategories = 29;

}  // namespace

std::optional<CharacterProperties> character_properties(std::string_view name) noexcept {
  if (name == "d") return character_properties("Nd");
  CharacterProperties set = 0;
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    const bool family = name.size() == 1 && i < kCategories && kNames[i].front() == name.front();
    if (family || kNames[i] == name) set |= CharacterProperties{1} << i;
  }
  return set == 0 ? std::nullopt : std::optional(set);
}

CharacterProperties properties_of(char32_t code_point) noexcept {
  const CharacterData& data = character_data();
  const auto behind = std::upper_bound(data.ranges.begin(), data.ranges.end(), code_point,
                                       [](char32_t c, std::uint32_t range) { return c < range >> 6; });
  return data.classes[*(behind - 1) & 63];
}

}  // namespace coterie
