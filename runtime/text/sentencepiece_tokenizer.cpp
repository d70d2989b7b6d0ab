// The tokenizer of models that come with a sentencepiece model, on the sentencepiece library.
#include "runtime/text/sentencepiece_tokenizer.hpp"

#include "placement/input_error.hpp"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <vector>

// The library exports this and doesn't declare it in its headers.
namespace sentencepiece::logging {
void SetMinLogLevel(int level);
}

namespace coterie {
namespace {

constexpr std::string_view kSpace = "\u2581";  // stands for a space in a piece

class SentencepieceTokenizer final : public Tokenizer {
 public:
  SentencepieceTokenizer(const std::filesystem::path& path, bool add_begin, bool add_end) {
    sentencepiece::logging::SetMinLogLevel(4);  // nothing: errors come as a status
    const auto status = processor_.Load(path.string());
    if (!status.ok()) {
      throw bad_field(path.string(), "contents", "\"" + std::string(status.message()) + "\"", "a sentencepiece model");
    }
    if (processor_.bos_id() >= 0) begin_ = processor_.bos_id();
    if (processor_.eos_id() >= 0) end_ = processor_.eos_id();
    add_begin_ = add_begin && begin_;
    add_end_ = add_end && end_;
    for (int id = 0; id < processor_.GetPieceSize(); ++id) {
      pieces_.push_back(read_piece(id));
      if (pieces_.back().kind == PieceKind::control) controls_.emplace(pieces_.back().text, id);
    }
    leading_space_ = probe_leading_space();
  }

  std::int32_t vocabulary() const noexcept override { return static_cast<std::int32_t>(pieces_.size()); }

  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options) const override {
    std::vector<std::int32_t> ids;
    if (options.add_special_tokens && add_begin_) ids.push_back(*begin_);
    std::size_t literal = 0;  // where the text that is not encoded yet begins
    for (std::size_t at = 0; options.parse_special_tokens && at < text.size();) {
      const auto control = control_at(text, at, options);
      if (control == controls_.end()) {
        ++at;
        continue;
      }
      encode_literally(text.substr(literal, at - literal), ids);
      ids.push_back(control->second);
      literal = at += control->first.size();
    }
    encode_literally(text.substr(literal), ids);
    if (options.add_special_tokens && add_end_) ids.push_back(*end_);
    return ids;
  }

  const Piece& piece(std::int32_t id) const noexcept override {
    return id >= 0 && id < vocabulary() ? pieces_[id] : nameless_;
  }

  Decoding decoding() const noexcept override { return {leading_space_, BrokenBytes::each, false}; }

  std::optional<std::int32_t> special_token(std::string_view name) const override {
    const auto found = controls_.find(name);
    return found == controls_.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<std::int32_t> begin_of_sequence() const noexcept override { return begin_; }
  std::optional<std::int32_t> end_of_sequence() const noexcept override { return end_; }

 private:
  using Controls = std::map<std::string, std::int32_t, std::less<>>;

  void encode_literally(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<int> found;
    const auto status = processor_.Encode(text, &found);
    if (!status.ok()) throw std::runtime_error("sentencepiece can't encode a text: " + status.ToString());
    ids.insert(ids.end(), found.begin(), found.end());
  }

  /// The longest name of a control piece that stands at `at`.
  Controls::const_iterator control_at(std::string_view text, std::size_t at, const EncodeOptions& options) const {
    auto longest = controls_.end();
    for (auto it = controls_.begin(); it != controls_.end(); ++it) {
      const std::size_t size = it->first.size();
      if (!text.substr(at).starts_with(it->first) || options.has_border(at, at + size)) continue;
      if (longest == controls_.end() || size > longest->first.size()) longest = it;
    }
    return longest;
  }

  Piece read_piece(int id) const {
    const std::string& raw = processor_.IdToPiece(id);
    if (processor_.IsControl(id)) return {PieceKind::control, raw};
    if (processor_.IsByte(id))
      return {PieceKind::byte, std::string(1, static_cast<char>(std::stoi(raw.substr(3), nullptr, 16)))};
    if (processor_.IsUnknown(id)) return {PieceKind::text, decoded({raw})};
    std::string text;
    for (std::string_view rest = raw; !rest.empty();) {
      const bool space = rest.starts_with(kSpace);
      text += space ? ' ' : rest.front();
      rest.remove_prefix(space ? kSpace.size() : 1);
    }
    return {PieceKind::text, text};
  }

  std::string decoded(const std::vector<std::string>& pieces) const {
    std::string text;
    const auto status = processor_.Decode(pieces, &text);
    if (!status.ok()) throw std::runtime_error("sentencepiece can't decode: " + status.ToString());
    return text;
  }

  /// The library doesn't show the model's normaliser settings, only what they do.
  LeadingSpace probe_leading_space() const {
    const std::string text = decoded({std::string(kSpace), std::string(kSpace) + "a"});
    return text == "a" ? LeadingSpace::drop_all : text == " a" ? LeadingSpace::drop_one : LeadingSpace::keep;
  }

  sentencepiece::SentencePieceProcessor processor_;
  std::optional<std::int32_t> begin_, end_;
  bool add_begin_ = false, add_end_ = false;
  std::vector<Piece> pieces_;
  Controls controls_;
  Piece nameless_;
  LeadingSpace leading_space_ = LeadingSpace::keep;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::filesystem::path& path, bool add_begin,
                                                        bool add_end) {
  return std::make_unique<SentencepieceTokenizer>(path, add_begin, add_end);
}

}  // namespace coterie
