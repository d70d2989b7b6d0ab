#include "runtime/text/pattern_parser.hpp"

#include "runtime/text/utf8.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <stdexcept>

namespace coterie {

bool CharacterSet::contains(char32_t c, CharacterProperties of_c) const noexcept {
  const auto has = [&](const CharacterSet& set) { return set.contains(c, of_c); };
  const bool any =
      (properties & of_c) != 0 ||
      std::any_of(ranges.begin(), ranges.end(), [&](const auto& r) { return r.first <= c && c <= r.second; }) ||
      std::any_of(sets.begin(), sets.end(), has);
  return (any && std::all_of(limits.begin(), limits.end(), has)) != negated;
}

namespace {

constexpr char32_t kLastCharacter = 0x10FFFF;

[[noreturn]] void refuse(const std::string& construct) {
  throw std::invalid_argument(construct);
}

CharacterSet everything() {
  return {{{0, kLastCharacter}}, 0, {}, {}, false};
}

class PatternParser {
 public:
  explicit PatternParser(std::string_view regex) : rest_(regex) {}

  PatternParts parse() {
    alternatives(false, 0);
    if (!rest_.empty()) refuse("a ) without its (");
    return std::move(parts_);
  }

 private:
  [[nodiscard]] bool next_is(std::string_view text) const { return rest_.starts_with(text); }
  bool take(std::string_view text) {
    const bool there = next_is(text);
    if (there) rest_.remove_prefix(text.size());
    return there;
  }
  char32_t take_character() {
    if (rest_.empty()) refuse("an end where a character is due");
    const std::size_t bytes = first_character(rest_).bytes;
    const char32_t c = code_point(rest_);
    rest_.remove_prefix(bytes);
    return c;
  }

  void structure(std::string_view text) {
    if (parts_.empty() || !std::holds_alternative<std::string>(parts_.back())) parts_.emplace_back(std::string());
    std::get<std::string>(parts_.back()) += text;
  }

  void alternatives(bool any_case, int depth) {
    if (depth > 50) refuse("groups more than 50 deep");
    char32_t before = 0;  // the letter just before this one, where case doesn't count
    while (!rest_.empty() && !next_is(")")) {
      char32_t letter = 0;
      if (take("|")) {
        structure("|");
      } else if (take("$")) {
        structure("$");
      } else if (next_is("(")) {
        group(any_case, depth);
        quantifier();
      } else {
        CharacterSet set = one_set();
        if (any_case) {
          if (set.ranges.size() == 1 && set.ranges[0].first == set.ranges[0].second) letter = set.ranges[0].first;
          forget_case(set);
          refuse_ligatures(before, letter);
        }
        parts_.emplace_back(std::move(set));
        quantifier();
      }
      before = letter;
    }
  }

  void group(bool any_case, int depth) {
    std::string opening = "(?:";
    if (take("(?i:")) {
      any_case = true;
    } else if (take("(?=")) {
      opening = "(?=";
    } else if (take("(?!")) {
      opening = "(?!";
    } else if (take("(?>")) {
      opening = "(?>";
    } else if (!take("(?:")) {
      if (next_is("(?")) refuse("the group " + std::string(rest_.substr(0, 4)));
      take("(");
    }
    structure(opening);
    alternatives(any_case, depth + 1);
    if (!take(")")) refuse("a ( without its )");
    structure(")");
  }

  void quantifier() {
    std::string found;
    if (next_is("{")) {
      const std::size_t end = std::min(rest_.find('}'), rest_.size() - 1);
      std::string_view inside = rest_.substr(1, end - 1);
      if (inside.empty() || inside.find_first_not_of("0123456789,") != std::string_view::npos || inside == ",") {
        refuse("the { of something that is no repetition");
      }
      found = inside.front() == ',' ? "{0" + std::string(inside) + "}" : "{" + std::string(inside) + "}";
      rest_.remove_prefix(end + 1);
      // Oniguruma reads these two otherwise than PCRE2.
      if (next_is("+")) refuse("{...}+");
      if (next_is("?") && inside.find(',') == std::string_view::npos) refuse("{...}?");
    } else {
      for (const char* one : {"*", "+", "?"}) {
        if (found.empty() && take(one)) found = one;
      }
      if (!found.empty() && take("+")) found += "+";
    }
    if (found.empty()) return;
    if (found.back() != '+' || found.size() == 1) {
      if (take("?")) found += "?";
    }
    if (next_is("*") || next_is("+") || next_is("?") || next_is("{")) refuse("a repetition of a repetition");
    structure(found);
  }

  /// `.`, an escape, a bracket or a character.
  CharacterSet one_set() {
    if (next_is("^")) refuse("^");
    for (const char* repetition : {"*", "+", "?", "{"}) {
      if (next_is(repetition)) refuse("a repetition of nothing");
    }
    if (take(".")) return {{{'\n', '\n'}}, 0, {}, {}, true};
    if (take("[")) return bracket(0);
    if (next_is("\\")) return escape();
    const char32_t c = take_character();
    return {{{c, c}}, 0, {}, {}, false};
  }

  CharacterSet escape() {
    take("\\");
    const char32_t c = take_character();
    switch (c) {
      case 's':
      case 'd':
      case 'w':
        return {{}, *character_properties(std::string(1, static_cast<char>(c))), {}, {}, false};
      case 'S':
      case 'D':
      case 'W':
        return {{}, *character_properties(std::string(1, static_cast<char>(c + 32))), {}, {}, true};
      case 'p':
      case 'P':
        return property(c == 'P');
      default:
        break;
    }
    const char32_t single = escaped_character(c);
    return {{{single, single}}, 0, {}, {}, false};
  }

  CharacterSet property(bool negated) {
    const std::size_t end = rest_.find('}');
    if (!take("{") || end == std::string_view::npos) refuse("\\p without {...}");
    std::string_view name = rest_.substr(0, end - 1);
    rest_.remove_prefix(end);
    if (name.starts_with("^")) {
      name.remove_prefix(1);
      negated = !negated;
    }
    const bool known = name.size() <= 2 || name == "Han" || name == "Hiragana" || name == "Katakana";
    const auto set = known && !name.empty() && std::isupper(static_cast<unsigned char>(name.front())) != 0
                         ? character_properties(name)
                         : std::nullopt;
    if (!set) refuse("\\p{" + std::string(name) + "}");
    return {{}, *set, {}, {}, negated};
  }

  char32_t escaped_character(char32_t c) {
    switch (c) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'f':
        return '\f';
      case 'v':
        return '\v';
      case 'x':
        if (take("{")) {
          const char32_t value = hexadecimal(rest_.find('}'));
          if (!take("}")) refuse("\\x{ without its }");
          return value;
        }
        return hexadecimal(2);
      case 'u':
        return hexadecimal(4);
      default:
        if (c < 0x80 && std::isalnum(static_cast<int>(c)) != 0) refuse("\\" + std::string(1, static_cast<char>(c)));
        return c;
    }
  }

  char32_t hexadecimal(std::size_t digits) {
    std::uint32_t value = 0;
    const std::string_view text = rest_.substr(0, digits);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
    if (error != std::errc() || end != text.data() + text.size() || text.empty() || value > kLastCharacter) {
      refuse("\\x or \\u without hexadecimal digits");
    }
    rest_.remove_prefix(text.size());
    return value;
  }

  /// Behind its "[".
  CharacterSet bracket(int depth) {
    if (depth > 20) refuse("[ more than 20 deep");
    CharacterSet set;
    set.negated = take("^");
    if (next_is("]")) refuse("[]");
    CharacterSet part;
    bool limited = false;
    while (!take("]")) {
      if (rest_.empty()) refuse("a [ without its ]");
      if (next_is("[:")) refuse("[:...:]");
      if (take("&&")) {
        set.limits.push_back(std::exchange(part, {}));
        limited = true;
      } else if (take("[")) {
        part.sets.push_back(bracket(depth + 1));
      } else {
        bracket_item(part);
      }
    }
    if (limited) {
      set.limits.push_back(std::move(part));
      set.ranges = everything().ranges;
    } else {
      part.negated = set.negated;
      return part;
    }
    return set;
  }

  void bracket_item(CharacterSet& part) {
    CharacterSet first = next_is("\\") ? escape() : CharacterSet{};
    if (first.ranges.empty() && (first.properties != 0 || first.negated)) {
      part.sets.push_back(std::move(first));
      return;
    }
    const char32_t from = first.ranges.empty() ? take_character() : first.ranges[0].first;
    char32_t to = from;
    if (next_is("-") && !next_is("-]") && !next_is("-[") && !next_is("-&&")) {
      take("-");
      const CharacterSet last = next_is("\\") ? escape() : CharacterSet{};
      if (last.properties != 0) refuse("a range up to a property");
      to = last.ranges.empty() ? take_character() : last.ranges[0].first;
      if (to < from) refuse("a range that ends before it begins");
    }
    part.ranges.emplace_back(from, to);
  }

  /// Adds the other case of ASCII letters, and the two other characters that fold to one.
  static void forget_case(CharacterSet& set) {
    if (set.properties != 0 || !set.sets.empty() || !set.limits.empty() || set.negated) {
      refuse("(?i: around more than characters");
    }
    const std::vector<std::pair<char32_t, char32_t>> ranges = set.ranges;
    for (const auto& [first, last] : ranges) {
      if (last >= 0x80) refuse("(?i: around characters that are not ASCII");
      for (char32_t c = first; c <= last; ++c) {
        if (std::isalpha(static_cast<int>(c)) == 0) continue;
        set.ranges.emplace_back(c ^ 32, c ^ 32);
        if ((c | 32) == 's') set.ranges.emplace_back(0x17F, 0x17F);
        if ((c | 32) == 'k') set.ranges.emplace_back(0x212A, 0x212A);
      }
    }
  }

  /// One character may be two letters when case doesn't count: the German sharp s, and typographers' ligatures.
  static void refuse_ligatures(char32_t first, char32_t second) {
    const char32_t a = first | 32, b = second | 32;
    if ((a == 's' && (b == 's' || b == 't')) || (a == 'f' && (b == 'f' || b == 'i' || b == 'l'))) {
      refuse("(?i: around two letters that one character can stand for");
    }
  }

  std::string_view rest_;
  PatternParts parts_;
};

}  // namespace

PatternParts parse_pattern(std::string_view regex) {
  return PatternParser(regex).parse();
}

PatternParts literal_pattern(std::string_view text) {
  PatternParts parts;
  while (!text.empty()) {
    const char32_t c = code_point(text);
    parts.emplace_back(CharacterSet{{{c, c}}, 0, {}, {}, false});
    text.remove_prefix(first_character(text).bytes);
  }
  return parts;
}

}  // namespace coterie
