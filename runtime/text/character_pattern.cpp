#include "runtime/text/character_pattern.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <stdexcept>

namespace coterie {
namespace {

constexpr std::size_t kAscii = 128;
constexpr std::size_t kCharacters = 0x110000;

void collect_cuts(const CharacterSet& set, std::vector<char32_t>& cuts) {
  for (const auto& [first, last] : set.ranges) {
    cuts.push_back(first);
    cuts.push_back(last + 1);
  }
  for (const CharacterSet& inner : set.sets) collect_cuts(inner, cuts);
  for (const CharacterSet& inner : set.limits) collect_cuts(inner, cuts);
}

std::string pcre2_text(const PatternParts& parts, const CharacterClasses& classes) {
  std::string text;
  for (const auto& part : parts) {
    const auto* structure = std::get_if<std::string>(&part);
    text += structure != nullptr ? *structure : classes.bytes_of(std::get<CharacterSet>(part));
  }
  return text;
}

/// For a pattern such as `\s+$`: a run of its first set needs to be tried from where the run begins only, as every
/// other try ends like that one. Without it, long runs that match nothing take quadratic time.
std::string run_guard(const PatternParts& parts, const CharacterClasses& classes) {
  if (parts.size() < 2 || !std::holds_alternative<CharacterSet>(parts[0])) return {};
  const auto* repetition = std::get_if<std::string>(&parts[1]);
  const bool greedy = repetition != nullptr && repetition->starts_with("+") && !repetition->starts_with("++") &&
                      !repetition->starts_with("+?");
  const bool one_branch = std::none_of(parts.begin(), parts.end(), [](const auto& part) {
    const auto* structure = std::get_if<std::string>(&part);
    return structure != nullptr && structure->find_first_of("|(") != std::string::npos;
  });
  if (!greedy || !one_branch) return {};
  return "(?:\\G|(?<!" + classes.bytes_of(std::get<CharacterSet>(parts[0])) + "))";
}

/// What matching needs and a thread can use again and again.
class MatchSpace {
 public:
  MatchSpace() {
    constexpr std::size_t kSmallest = 64 << 10, kLargest = 64 << 20;  // bytes; pages that nothing touches cost nothing
    stack_.reset(pcre2_jit_stack_create(kSmallest, kLargest, nullptr));
    context_.reset(pcre2_match_context_create(nullptr));
    data_.reset(pcre2_match_data_create(1, nullptr));
    pcre2_jit_stack_assign(context_.get(), nullptr, stack_.get());
  }
  [[nodiscard]] pcre2_match_context* context() const noexcept { return context_.get(); }
  [[nodiscard]] pcre2_match_data* data() const noexcept { return data_.get(); }

 private:
  struct Free {
    void operator()(pcre2_jit_stack* stack) const noexcept { pcre2_jit_stack_free(stack); }
    void operator()(pcre2_match_context* context) const noexcept { pcre2_match_context_free(context); }
    void operator()(pcre2_match_data* data) const noexcept { pcre2_match_data_free(data); }
  };
  std::unique_ptr<pcre2_jit_stack, Free> stack_;
  std::unique_ptr<pcre2_match_context, Free> context_;
  std::unique_ptr<pcre2_match_data, Free> data_;
};

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 200> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

CharacterClasses::CharacterClasses(const std::vector<PatternParts>& patterns) : table_(kCharacters, '\0') {
  std::vector<const CharacterSet*> sets;
  std::vector<char32_t> cuts;
  for (const PatternParts& parts : patterns) {
    for (const auto& part : parts) {
      if (const auto* set = std::get_if<CharacterSet>(&part)) {
        sets.push_back(set);
        collect_cuts(*set, cuts);
      }
    }
  }
  for (const std::uint32_t range : character_data().ranges) cuts.push_back(range >> 6);
  cuts.push_back(kAscii);
  cuts.push_back(kCharacters);
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());

  for (std::size_t c = 0; c < kAscii; ++c) table_[c] = static_cast<char>(c);
  std::map<std::vector<bool>, std::size_t> numbers;
  for (std::size_t i = 0; i + 1 < cuts.size() && cuts[i] < kCharacters; ++i) {
    if (cuts[i] < kAscii) continue;
    const CharacterProperties properties = properties_of(cuts[i]);
    std::vector<bool> in_set;
    in_set.reserve(sets.size());
    for (const CharacterSet* set : sets) in_set.push_back(set->contains(cuts[i], properties));
    const auto [found, is_new] = numbers.emplace(std::move(in_set), representative_.size());
    if (is_new) representative_.push_back(cuts[i]);
    if (representative_.size() > kAscii) throw std::invalid_argument("more than 128 classes of characters");
    std::fill(table_.begin() + cuts[i], table_.begin() + cuts[i + 1], static_cast<char>(kAscii + found->second));
  }
}

std::string CharacterClasses::bytes_of(const CharacterSet& set) const {
  std::string text = "[";
  for (std::size_t byte = 0; byte < kAscii + representative_.size(); ++byte) {
    const char32_t member = byte < kAscii ? byte : representative_[byte - kAscii];
    if (!set.contains(member, properties_of(member))) continue;
    std::array<char, 8> code{};
    std::snprintf(code.data(), code.size(), "\\x%02x", static_cast<unsigned>(byte));
    text += code.data();
  }
  return text == "[" ? "(?!)" : text + "]";
}

CharacterPattern::CharacterPattern(const PatternParts& parts, const CharacterClasses& classes) {
  const std::string text = run_guard(parts, classes) + pcre2_text(parts, classes);
  int error = 0;
  PCRE2_SIZE where = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), PCRE2_MULTILINE, &error, &where, nullptr);
  if (code == nullptr) throw std::invalid_argument(message_of(error));
  code_.reset(code);
  std::uint32_t empty = 0;
  pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &empty);
  if (empty != 0) throw std::invalid_argument("a pattern that matches the empty text");
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where there is no JIT, pcre2_match interprets
}

std::pair<std::size_t, std::size_t> CharacterPattern::find(std::string_view text, std::size_t from) const {
  thread_local const MatchSpace space;
  const int found = pcre2_match(static_cast<const pcre2_code*>(code_.get()), reinterpret_cast<PCRE2_SPTR>(text.data()),
                                text.size(), from, PCRE2_NO_UTF_CHECK, space.data(), space.context());
  if (found == PCRE2_ERROR_NOMATCH) return {text.size(), text.size()};
  if (found < 0) throw std::runtime_error("a text can't be split into words: " + message_of(found));
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(space.data());
  return {ends[0], ends[1]};
}

void CharacterPattern::FreeCode::operator()(void* code) const noexcept {
  pcre2_code_free(static_cast<pcre2_code*>(code));
}

}  // namespace coterie
