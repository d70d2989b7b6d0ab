#include "runtime/text/json_tokenizer.hpp"

#include "placement/files/json_view.hpp"
#include "placement/input_error.hpp"
#include "runtime/text/bpe.hpp"
#include "runtime/text/json_field.hpp"
#include "runtime/text/normalizer.hpp"
#include "runtime/text/piece_reader.hpp"
#include "runtime/text/pre_tokenizer.hpp"
#include "runtime/text/token_list.hpp"
#include "runtime/text/utf8.hpp"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <utility>

namespace coterie {
namespace {

using Json = nlohmann::json;

/// What stands before and behind a text when special tokens are added.
struct Frame {
  std::vector<std::int32_t> before, behind;
};

void read_template(const JsonField& fields, Frame& frame) {
  bool behind = false;
  for (const JsonField& item : fields.objects("single")) {
    if (!item["Sequence"].is_null()) {
      if (behind) fields.refuse("single", "the text once");
      behind = true;
      continue;
    }
    const JsonField special(item["SpecialToken"], item.path("SpecialToken"), fields.file());
    const JsonField known(fields["special_tokens"], fields.path("special_tokens"), fields.file());
    const JsonField token(known[special.text("id").c_str()], known.path(special.text("id").c_str()), fields.file());
    if (!token["ids"].is_array()) token.refuse("ids", "a list of token ids");
    for (const Json& id : token["ids"]) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= kMostTokens)
        token.refuse("ids", "a list of token ids");
      (behind ? frame.behind : frame.before).push_back(id.get<std::int32_t>());
    }
  }
  if (!behind) fields.refuse("single", "the text once");
}

void read_post_processor(const Json& json, const std::string& field, const std::filesystem::path& file, Frame& frame) {
  if (json.is_null()) return;
  const JsonField fields(json, field, file);
  const std::string type = fields.text("type");
  if (type == "Sequence") {
    const Json& list = fields["processors"];
    if (!list.is_array()) fields.refuse("processors", "a list of post-processors");
    for (std::size_t i = 0; i < list.size(); ++i) {
      read_post_processor(list[i], field + ".processors[" + std::to_string(i) + "]", file, frame);
    }
  } else if (type == "TemplateProcessing") {
    Frame inner;
    read_template(fields, inner);
    frame.before.insert(frame.before.begin(), inner.before.begin(), inner.before.end());
    frame.behind.insert(frame.behind.end(), inner.behind.begin(), inner.behind.end());
  } else if (type != "ByteLevel") {  // which moves offsets only
    fields.refuse("type", "Sequence, TemplateProcessing or ByteLevel: others are not supported");
  }
}

std::pair<std::string, std::string> read_merge(const Json& merge, std::size_t index, const JsonField& model) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0], merge[1]};
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const std::size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  }
  throw bad_field(model.file().string(), model.path("merges") + "[" + std::to_string(index) + "]", merge.dump(),
                  "two tokens");
}

Bpe read_model(const JsonField& model, bool byte_level) {
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (!model.text(affix, "").empty()) model.refuse(affix, "none: it is not supported");
  }
  if (!model["dropout"].is_null() && model["dropout"] != 0) model.refuse("dropout", "none");
  BpeOptions options;
  options.bytes = byte_level;
  options.byte_fallback = model.flag("byte_fallback", false);
  options.fuse_unknown = model.flag("fuse_unk", false);
  options.ignore_merges = model.flag("ignore_merges", false);
  options.unknown = model.text("unk_token", "");
  const auto spelling = [&](const std::string& token) {
    return byte_level ? bytes_spelled(token) : std::optional(token);
  };
  BpeVocabulary vocabulary;
  for (const auto& [token, id] : model["vocab"].items()) {
    if (auto text = spelling(token)) vocabulary.emplace(std::move(*text), id.get<std::int32_t>());
  }
  for (int b = 0; b < 256 && byte_level && options.byte_fallback; ++b) {
    if (vocabulary.contains(std::string(1, static_cast<char>(b)))) continue;
    model.refuse("byte_fallback", "false in a byte-level vocabulary that lacks bytes");
  }
  if (!model["merges"].is_array()) model.refuse("merges", "a list of pairs of tokens");
  std::vector<Bpe::Merge> merges;
  for (const Json& json : model["merges"]) {
    const auto [left, right] = read_merge(json, merges.size(), model);
    auto left_text = spelling(left), right_text = spelling(right);
    // A merge of what no text spells never happens.
    if (left_text && right_text) merges.push_back({std::move(*left_text), std::move(*right_text)});
  }
  if (!options.unknown.empty() && !vocabulary.contains(options.unknown)) {
    // Byte-level vocabularies have a token for everything: some files name one for the rest that isn't there.
    if (!byte_level) model.refuse("unk_token", "a token of the vocabulary");
    options.unknown.clear();
  }
  try {
    return Bpe(std::move(vocabulary), merges, options);
  } catch (const std::invalid_argument& e) {
    throw bad_field(model.file().string(), model.path("merges"), e.what(), "tokens of the vocabulary");
  }
}

class JsonTokenizer final : public Tokenizer {
 public:
  JsonTokenizer(const JsonField& file, const JsonField& config, const JsonField& model, const TokenList& tokens)
      : normalizer_(file["normalizer"], file.file()),
        pre_tokenizer_(file["pre_tokenizer"], file.file()),
        bpe_(read_model(model, pre_tokenizer_.byte_level())) {
    read_post_processor(file["post_processor"], "post_processor", file.file(), frame_);
    begin_ = tokens.find(named_token(config["bos_token"]));
    end_ = tokens.find(named_token(config["eos_token"]));
    if (!config["add_bos_token"].is_null() || !config["add_eos_token"].is_null()) {
      frame_ = {};
      if (config.flag("add_bos_token", false) && begin_) frame_.before.push_back(*begin_);
      if (config.flag("add_eos_token", false) && end_) frame_.behind.push_back(*end_);
    }
    take_added(tokens);
    take_pieces(tokens, PieceReader(file["decoder"], file.file()));
  }

  std::int32_t vocabulary() const noexcept override { return static_cast<std::int32_t>(pieces_.size()); }

  std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options) const override {
    std::string valid;
    if (!is_valid(text)) text = valid = made_valid(text);
    std::vector<std::int32_t> ids;
    if (options.add_special_tokens) ids = frame_.before;
    std::size_t taken = 0;
    for (const AddedTokens::Found& found : as_written_.find_all(text, options)) {
      if (taken < found.begin) encode_segment(text, taken, found.begin, options, ids);
      ids.push_back(found.token->id);
      taken = found.end;
    }
    encode_segment(text, taken, text.size(), options, ids);
    if (options.add_special_tokens) ids.insert(ids.end(), frame_.behind.begin(), frame_.behind.end());
    return ids;
  }

  const Piece& piece(std::int32_t id) const noexcept override {
    return id >= 0 && id < vocabulary() ? pieces_[static_cast<std::size_t>(id)] : nameless_;
  }
  Decoding decoding() const noexcept override { return decoding_; }
  std::optional<std::int32_t> special_token(std::string_view name) const override {
    const auto found = specials_.find(name);
    return found == specials_.end() ? std::nullopt : std::optional(found->second);
  }
  std::optional<std::int32_t> begin_of_sequence() const noexcept override { return begin_; }
  std::optional<std::int32_t> end_of_sequence() const noexcept override { return end_; }

 private:
  /// Added tokens that are looked for in the normalized text are so in their normalized form.
  void take_added(const TokenList& tokens) {
    std::vector<AddedToken> as_written, normalized;
    for (AddedToken token : tokens.added()) {
      if (token.special) specials_.emplace(token.text, token.id);
      if (token.normalized) token.text = normalizer_.apply(token.text);
      if (!token.text.empty()) (token.normalized ? normalized : as_written).push_back(token);
    }
    as_written_ = AddedTokens(std::move(as_written));
    normalized_ = AddedTokens(std::move(normalized));
  }

  void take_pieces(const TokenList& tokens, const PieceReader& reader) {
    decoding_ = reader.decoding();
    for (const auto& [text, id] : tokens.ids()) {
      const auto index = static_cast<std::size_t>(id);
      if (index >= pieces_.size()) pieces_.resize(index + 1);
      pieces_[index] = specials_.contains(text) ? Piece{PieceKind::control, text} : reader.read(text);
    }
    // HF decodes a token that is looked for in the normalized text as its normalized form.
    for (const AddedToken& token : tokens.added()) {
      if (token.normalized && !token.special) {
        pieces_[static_cast<std::size_t>(token.id)] = reader.read(normalizer_.apply(token.text));
      }
    }
  }

  /// Text between added tokens of the user's text.
  void encode_segment(std::string_view text, std::size_t begin, std::size_t end, EncodeOptions options,
                      std::vector<std::int32_t>& ids) const {
    if (begin == end) return;
    const std::string segment = normalizer_.apply(std::string(text.substr(begin, end - begin)));
    // Where normalizing has moved the text, nobody knows where its borders are now.
    if (options.has_border(begin, end) && segment != text.substr(begin, end - begin)) {
      options.parse_special_tokens = false;
    }
    const auto encode_literally = [&](std::size_t from, std::size_t to) {
      pre_tokenizer_.split(std::string_view(segment).substr(from, to - from), begin + from == 0,
                           [&](std::string_view piece) { bpe_.encode(piece, ids); });
    };
    std::size_t taken = 0;
    for (const AddedTokens::Found& found : normalized_.find_all(segment, options, begin)) {
      if (taken < found.begin) encode_literally(taken, found.begin);
      ids.push_back(found.token->id);
      taken = found.end;
    }
    if (taken < segment.size()) encode_literally(taken, segment.size());
  }

  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  Bpe bpe_;
  AddedTokens as_written_, normalized_;
  Frame frame_;
  std::vector<Piece> pieces_;
  Piece nameless_;
  Decoding decoding_;
  std::map<std::string, std::int32_t, std::less<>> specials_;
  std::optional<std::int32_t> begin_, end_;
};

}  // namespace

std::unique_ptr<Tokenizer> make_json_tokenizer(const std::filesystem::path& path, const Json& config,
                                               const std::filesystem::path& config_path) {
  const Json json = read_json(path, SameKeys::last_counts);
  const JsonField file(json, "", path), config_fields(config, "", config_path);
  const JsonField model(file["model"], "model", path);
  // Old files have no type, and are told by what they have.
  const std::string type = model.text("type", model["merges"].is_array() ? "BPE" : "");
  if (type != "BPE") model.refuse("type", "BPE: others are not supported");
  return std::make_unique<JsonTokenizer>(file, config_fields, model, TokenList(file, model, config_fields));
}

}  // namespace coterie
