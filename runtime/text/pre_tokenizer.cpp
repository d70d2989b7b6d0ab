#include "runtime/text/pre_tokenizer.hpp"

#include "placement/input_error.hpp"
#include "runtime/text/json_field.hpp"
#include "runtime/text/utf8.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

namespace coterie {
namespace {

constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// -1 for a character that stands for no byte.
int byte_of_character(char32_t character) noexcept {
  const auto printable = [](int b) { return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; };
  static const auto table = [&] {
    std::array<int, 0x144> bytes{};
    bytes.fill(-1);
    std::size_t next = 0x100;
    for (int b = 0; b < 256; ++b) bytes[printable(b) ? static_cast<std::size_t>(b) : next++] = b;
    return bytes;
  }();
  return character < table.size() ? table[character] : -1;
}

}  // namespace

/// A text with the class of each character, and where each begins.
class PreTokenizer::Text {
 public:
  Text(std::string_view text, const CharacterClasses& classes) : text_(text) {
    classes_.reserve(text.size());
    const bool ascii = std::all_of(text.begin(), text.end(), [](char c) { return static_cast<signed char>(c) >= 0; });
    if (ascii) {
      classes_ = text;  // ASCII characters are their own classes, and byte i is character i
      return;
    }
    starts_.reserve(text.size() + 1);
    for (std::size_t at = 0; at < text.size();) {
      const char32_t c = code_point(text.substr(at));
      classes_ += classes[c];
      starts_.push_back(at);
      at += c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    }
    starts_.push_back(text.size());
  }

  [[nodiscard]] std::size_t size() const noexcept { return classes_.size(); }
  [[nodiscard]] std::string_view classes(Span span) const {
    return std::string_view(classes_).substr(span.begin, span.end - span.begin);
  }
  [[nodiscard]] std::string_view of(Span span) const {
    if (starts_.empty()) return text_.substr(span.begin, span.end - span.begin);
    return text_.substr(starts_[span.begin], starts_[span.end] - starts_[span.begin]);
  }

 private:
  std::string_view text_;
  std::string classes_;
  std::vector<std::size_t> starts_;  ///< (characters + 1); empty where each is one byte
};

PreTokenizer::PreTokenizer(const nlohmann::json& json, const std::filesystem::path& file) {
  if (!json.is_null()) add(json, "pre_tokenizer", file);
  compile(file);
}

void PreTokenizer::add_split(PatternParts pattern, Behavior behavior, bool invert) {
  steps_.emplace_back(Split{parts_.size(), behavior, invert});
  parts_.push_back(std::move(pattern));
}

void PreTokenizer::add(const nlohmann::json& json, const std::string& field, const std::filesystem::path& file) {
  const JsonField fields(json, field, file);
  const std::string type = fields.text("type");
  if (byte_level_) fields.refuse("type", "nothing behind ByteLevel");
  if (type == "Sequence") {
    const nlohmann::json& list = fields["pretokenizers"];
    if (!list.is_array()) fields.refuse("pretokenizers", "a list of pre-tokenizers");
    for (std::size_t i = 0; i < list.size(); ++i)
      add(list[i], field + ".pretokenizers[" + std::to_string(i) + "]", file);
  } else if (type == "Split") {
    constexpr std::array<std::string_view, 5> kBehaviors{"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                                         "Contiguous"};
    const auto* const behavior = std::find(kBehaviors.begin(), kBehaviors.end(), fields.text("behavior"));
    if (behavior == kBehaviors.end()) {
      fields.refuse("behavior", "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
    }
    const JsonField pattern(fields["pattern"], fields.path("pattern"), file);
    const char* kind = pattern["Regex"].is_null() ? "String" : "Regex";
    const std::string text = pattern.text(kind);
    if (text.empty()) pattern.refuse(kind, "a text that is not empty");
    try {
      add_split(*kind == 'R' ? parse_pattern(text) : literal_pattern(text),
                static_cast<Behavior>(behavior - kBehaviors.begin()), fields.flag("invert", false));
    } catch (const std::invalid_argument& e) {
      pattern.refuse(kind, "a pattern without " + std::string(e.what()) + ", which is not supported");
    }
    fields_.push_back(pattern.path(kind));
  } else if (type == "Digits") {
    PatternParts pattern{CharacterSet{{}, *character_properties("Numeric"), {}, {}, false}};
    if (!fields.flag("individual_digits", false)) pattern.emplace_back("+");
    add_split(std::move(pattern), Behavior::isolated, false);
    fields_.push_back(field);
  } else if (type == "ByteLevel") {
    if (fields.flag("add_prefix_space", true)) steps_.emplace_back(PrefixSpace{});
    if (fields.flag("use_regex", true)) {
      add_split(parse_pattern(kGpt2Pattern), Behavior::isolated, false);
      fields_.push_back(field);
    }
    byte_level_ = true;
  } else if (type == "Metaspace") {
    const std::string replacement = fields.text("replacement", "\u2581");
    if (count_characters(replacement) != 1) fields.refuse("replacement", "one character");
    const std::string scheme =
        fields.text("prepend_scheme", fields.flag("add_prefix_space", true) ? "always" : "never");
    using Prepend = Metaspace::Prepend;
    if (scheme != "always" && scheme != "first" && scheme != "never") {
      fields.refuse("prepend_scheme", "always, first or never");
    }
    const Prepend prepend = scheme == "always" ? Prepend::always : scheme == "first" ? Prepend::first : Prepend::never;
    steps_.emplace_back(Metaspace{replacement, prepend});
    if (fields.flag("split", true)) {
      add_split(literal_pattern(replacement), Behavior::merged_with_next, false);
      fields_.push_back(field);
    }
  } else {
    fields.refuse("type", "Sequence, Split, ByteLevel, Digits or Metaspace: others are not supported");
  }
}

void PreTokenizer::compile(const std::filesystem::path& file) {
  try {
    classes_.emplace(parts_);
  } catch (const std::invalid_argument& e) {
    throw bad_field(file.string(), "pre_tokenizer", e.what(), "fewer: they are not supported");
  }
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    try {
      patterns_.emplace_back(parts_[i], *classes_);
    } catch (const std::invalid_argument& e) {
      throw bad_field(file.string(), fields_[i], e.what(), "a pattern that PCRE2 takes");
    }
  }
}

void PreTokenizer::merge(std::vector<Piece>& pieces, Behavior behavior, std::vector<Span>& spans) const {
  const std::size_t first = spans.size();
  const bool backwards = behavior == Behavior::merged_with_next;
  if (backwards) std::reverse(pieces.begin(), pieces.end());
  bool last_matched = false;
  for (const Piece& piece : pieces) {
    bool joins = false;  // the piece before
    switch (behavior) {
      case Behavior::removed:
        if (piece.match) continue;
        break;
      case Behavior::isolated:
        break;
      case Behavior::contiguous:
        joins = piece.match == last_matched;
        break;
      case Behavior::merged_with_previous:
      case Behavior::merged_with_next:
        joins = piece.match && !last_matched;
        break;
    }
    last_matched = piece.match;
    if (!joins || spans.size() == first) {
      spans.push_back(piece.span);
    } else if (backwards) {
      spans.back().begin = piece.span.begin;
    } else {
      spans.back().end = piece.span.end;
    }
  }
  if (backwards) std::reverse(spans.begin() + static_cast<std::ptrdiff_t>(first), spans.end());
}

void PreTokenizer::apply(const Split& step, const Text& text, std::vector<Span>& spans) const {
  const CharacterPattern& pattern = patterns_[step.pattern];
  std::vector<Span> found;
  found.reserve(spans.size());
  std::vector<Piece> pieces;
  for (const Span span : spans) {
    const std::string_view classes = text.classes(span);
    pieces.clear();
    for (std::size_t at = 0; at < classes.size();) {
      const auto [begin, end] = pattern.find(classes, at);
      if (at < begin) pieces.push_back({{span.begin + at, span.begin + begin}, step.invert});
      if (begin < end) pieces.push_back({{span.begin + begin, span.begin + end}, !step.invert});
      at = end;
    }
    merge(pieces, step.behavior, found);
  }
  spans = std::move(found);
}

void PreTokenizer::split(std::string_view text, bool at_start,
                         const std::function<void(std::string_view)>& take) const {
  if (text.empty()) return;
  std::string changed;  // holds the text once a step has changed it
  std::optional<Text> whole(std::in_place, text, *classes_);
  std::vector<Span> spans{{0, whole->size()}};
  for (const Step& step : steps_) {
    if (const auto* split = std::get_if<Split>(&step)) {
      apply(*split, *whole, spans);
      continue;
    }
    std::string next;
    std::vector<std::size_t> sizes;  // (spans): characters
    for (const Span span : spans) {
      const std::size_t before = next.size();
      if (const auto* meta = std::get_if<Metaspace>(&step)) {
        std::string piece;
        for (const char c : whole->of(span)) {
          if (c == ' ') piece += meta->replacement;
          if (c != ' ') piece += c;
        }
        const bool prepend = meta->prepend == Metaspace::Prepend::always ||
                             (meta->prepend == Metaspace::Prepend::first && at_start && span.begin == 0);
        if (prepend && !piece.starts_with(meta->replacement)) next += meta->replacement;
        next += piece;
      } else {
        if (!whole->of(span).starts_with(' ')) next += ' ';
        next += whole->of(span);
      }
      sizes.push_back(count_characters(std::string_view(next).substr(before)));
    }
    changed = std::move(next);
    whole.emplace(changed, *classes_);
    std::size_t begin = 0;
    for (std::size_t i = 0; i < spans.size(); ++i) {
      spans[i] = {begin, begin + sizes[i]};
      begin += sizes[i];
    }
  }
  for (const Span span : spans) take(whole->of(span));
}

std::optional<std::string> bytes_spelled(std::string_view token) {
  std::string bytes;
  for (; !token.empty(); token.remove_prefix(first_character(token).bytes)) {
    const int byte = byte_of_character(code_point(token));
    if (byte < 0) return std::nullopt;
    bytes += static_cast<char>(byte);
  }
  return bytes;
}

}  // namespace coterie
