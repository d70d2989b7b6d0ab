#include "runtime/text/normalizer.hpp"

#include "runtime/text/character_properties.hpp"
#include "runtime/text/json_field.hpp"
#include "runtime/text/utf8.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <stdexcept>
#include <string_view>

namespace coterie {
namespace {

constexpr int kNfc = UTF8PROC_STABLE | UTF8PROC_COMPOSE, kNfd = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
constexpr int kNfkc = kNfc | UTF8PROC_COMPAT, kNfkd = kNfd | UTF8PROC_COMPAT;

/// Characters below are the same in NFC, alone and beside one another.
constexpr char32_t kFirstForNfc = 0x300;
constexpr char32_t kFirstForOthers = 0x80;

/// The code point before the first trailing consonant of Hangul; utf8proc composes it into nothing.
constexpr char32_t kBeforeTrailing = 0x11A7;

bool never_normalized(char32_t c) {
  if (c == kBeforeTrailing) return true;
  const auto& ranges = character_data().never_normalized;
  const auto behind =
      std::upper_bound(ranges.begin(), ranges.end(), c, [](char32_t value, const auto& r) { return value < r.first; });
  return behind != ranges.begin() && c <= (behind - 1)->second;
}

void append_normalized(std::string_view text, int options, std::string& out) {
  if (text.empty()) return;
  utf8proc_uint8_t* result = nullptr;
  const auto bytes =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &result, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
  if (bytes < 0) throw std::runtime_error(std::string("a text can't be normalized: ") + utf8proc_errmsg(bytes));
  out.append(reinterpret_cast<const char*>(result), static_cast<std::size_t>(bytes));
}

/// Normalizes the stretches that could change, each with the character before it, with which it may compose.
std::string normalized(std::string_view text, int options) {
  const char32_t first_changing = options == kNfc ? kFirstForNfc : kFirstForOthers;
  std::string out;
  out.reserve(text.size());
  std::size_t begin = 0;   // of a stretch; what is before it is in `out`
  std::size_t before = 0;  // of the character before `at`
  bool changing = false;   // `text` from `begin` on is a stretch
  for (std::size_t at = 0; at < text.size();) {
    const char32_t c = code_point(text.substr(at));
    const std::size_t bytes = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    if (c >= first_changing && never_normalized(c)) {
      // To HF this one neither changes nor moves nor composes: the stretches around it know nothing of one another.
      if (changing) append_normalized(text.substr(begin, at - begin), options, out);
      if (!changing) out += text.substr(begin, at - begin);
      out += text.substr(at, bytes);
      begin = at + bytes;
      changing = false;
      before = begin;
    } else {
      if (c >= first_changing && !changing) {
        out += text.substr(begin, before - begin);
        begin = before;
        changing = true;
      } else if (c < first_changing && changing) {
        append_normalized(text.substr(begin, at - begin), options, out);
        begin = at;
        changing = false;
      }
      before = at;
    }
    at += bytes;
  }
  if (changing) {
    append_normalized(text.substr(begin), options, out);
  } else {
    out += text.substr(begin);
  }
  return out;
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = text.find(from); at != std::string_view::npos; at = text.find(from)) {
    out += text.substr(0, at);
    out += to;
    text.remove_prefix(at + from.size());
  }
  return out += text;
}

}  // namespace

Normalizer::Normalizer(const nlohmann::json& json, const std::filesystem::path& file) {
  if (!json.is_null()) add(json, "normalizer", file);
}

void Normalizer::add(const nlohmann::json& json, const std::string& field, const std::filesystem::path& file) {
  const JsonField fields(json, field, file);
  const std::string type = fields.text("type");
  if (type == "Sequence") {
    const nlohmann::json& list = fields["normalizers"];
    if (!list.is_array()) fields.refuse("normalizers", "a list of normalizers");
    for (std::size_t i = 0; i < list.size(); ++i) add(list[i], field + ".normalizers[" + std::to_string(i) + "]", file);
  } else if (type == "Prepend") {
    steps_.emplace_back(Prepend{fields.text("prepend")});
  } else if (type == "Replace") {
    const JsonField pattern(fields["pattern"], fields.path("pattern"), file);
    const std::string from = pattern.text("String");
    if (from.empty()) pattern.refuse("String", "a text that is not empty");
    steps_.emplace_back(Replace{from, fields.text("content")});
  } else if (type == "NFC") {
    steps_.emplace_back(UnicodeForm{kNfc});
  } else if (type == "NFD") {
    steps_.emplace_back(UnicodeForm{kNfd});
  } else if (type == "NFKC") {
    steps_.emplace_back(UnicodeForm{kNfkc});
  } else if (type == "NFKD") {
    steps_.emplace_back(UnicodeForm{kNfkd});
  } else {
    fields.refuse("type", "Sequence, Prepend, Replace, NFC, NFD, NFKC or NFKD: others are not supported");
  }
}

std::string Normalizer::apply(std::string text) const {
  for (const Step& step : steps_) {
    if (const auto* prepend = std::get_if<Prepend>(&step)) {
      if (!text.empty()) text.insert(0, prepend->text);
    } else if (const auto* replace = std::get_if<Replace>(&step)) {
      text = replaced(text, replace->from, replace->to);
    } else {
      text = normalized(text, std::get<UnicodeForm>(step).options);
    }
  }
  return text;
}

}  // namespace coterie
