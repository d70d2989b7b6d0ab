// The tokenizer of models that come with a sentencepiece model, on the sentencepiece library.
#include "runtime/sentencepiece_tokenizer.hpp"

#include "placement/input_error.hpp"

#include <sentencepiece_processor.h>

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
    if (add_begin && processor_.bos_id() >= 0) begin_ = processor_.bos_id();
    if (add_end && processor_.eos_id() >= 0) end_ = processor_.eos_id();
    for (int id = 0; id < processor_.GetPieceSize(); ++id) pieces_.push_back(read_piece(id));
    leading_space_ = probe_leading_space();
  }

  std::int32_t vocabulary() const noexcept override { return static_cast<std::int32_t>(pieces_.size()); }

  std::vector<std::int32_t> encode(std::string_view text, bool special_tokens) const override {
    std::vector<int> ids;
    const auto status = processor_.Encode(text, &ids);
    if (!status.ok()) throw std::runtime_error("sentencepiece can't encode a text: " + status.ToString());
    if (special_tokens && begin_ >= 0) ids.insert(ids.begin(), begin_);
    if (special_tokens && end_ >= 0) ids.push_back(end_);
    return ids;
  }

  const Piece& piece(std::int32_t id) const noexcept override {
    return id >= 0 && id < vocabulary() ? pieces_[id] : nameless_;
  }

  LeadingSpace leading_space() const noexcept override { return leading_space_; }

 private:
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
  int begin_ = -1, end_ = -1;  // -1: not added
  std::vector<Piece> pieces_;
  Piece nameless_;
  LeadingSpace leading_space_ = LeadingSpace::keep;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::filesystem::path& path, bool add_begin,
                                                        bool add_end) {
  return std::make_unique<SentencepieceTokenizer>(path, add_begin, add_end);
}

}  // namespace coterie
