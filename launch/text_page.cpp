#include "launch/text_page.hpp"

#include <algorithm>
#include <sstream>

namespace coterie {
namespace {

constexpr std::size_t kWidth = 80;
constexpr std::size_t kLabel = 13;

/// Characters on the screen: bytes of UTF-8 but those that continue a character.
std::size_t width_of(const std::string& text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U; }));
}

/// Words; a percent sign stays with its number.
std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; in >> word;) {
    if (word.front() == '%' && !words.empty())
      words.back() += " " + word;
    else
      words.push_back(word);
  }
  return words;
}

}  // namespace

std::string printable(std::string text) {
  const auto obeyed = [](char c) {
    return (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f;
  };
  std::replace_if(text.begin(), text.end(), obeyed, '?');
  return text;
}

std::string complaint(const std::string& what, const std::string& whose) {
  return (what.starts_with("coterie ") ? "" : "coterie: ") + whose + printable(what) + '\n';
}

void TextPage::fact(const std::string& label, const std::string& text) {
  wrapped(label + std::string(kLabel - std::min(kLabel - 1, label.size()), ' '), kLabel, text);
}

void TextPage::note(const std::string& text) {
  text_ += '\n';
  wrapped("", 0, text);
}

void TextPage::wrapped(std::string line, std::size_t indent, const std::string& text) {
  bool first = true;
  for (const std::string& word : words_of(text)) {
    if (!first && width_of(line) + 1 + width_of(word) > kWidth) {
      text_ += line + '\n';
      line = std::string(indent, ' ') + word;
    } else {
      line += (first ? "" : " ") + word;
    }
    first = false;
  }
  text_ += line + '\n';
}

void TextPage::table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(head.size(), 0);
  const auto measure = [&](const std::vector<std::string>& row) {
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], width_of(row[c]));
  };
  const auto print = [&](const std::vector<std::string>& row) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      text_ += std::string((c == 0 ? 0 : 2) + widths[c] - width_of(row[c]), ' ') + row[c];
    }
    text_ += '\n';
  };
  measure(head);
  for (const auto& row : rows) measure(row);
  text_ += '\n';
  print(head);
  for (const auto& row : rows) print(row);
}

}  // namespace coterie
