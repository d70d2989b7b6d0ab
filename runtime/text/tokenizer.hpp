// Text to token ids, and what text each token stands for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

struct EncodeOptions {
  bool add_special_tokens = true;          ///< put the begin (and end) of sequence that the model wants around the text
  bool parse_special_tokens = false;       ///< "</s>" in the text is the token; otherwise it is four characters
  std::span<const std::size_t> borders{};  ///< rising byte offsets in the text: no special token is parsed across them

  /// Whether a special token in [begin, end) of the text has a border inside.
  [[nodiscard]] bool has_border(std::size_t begin, std::size_t end) const noexcept;
};

/// A tokenizer of a model folder. Immutable; all members may be called from several threads.
class Tokenizer {
 public:
  enum class PieceKind : std::uint8_t {
    text,     ///< some characters
    byte,     ///< bytes, perhaps of a character that takes several such pieces
    control,  ///< a special token, no text: begin and end of a sequence, padding, marks of a chat template
  };
  struct Piece {
    PieceKind kind = PieceKind::control;
    std::string text;  ///< text: UTF-8; byte: the bytes; control: the name, such as "</s>"
  };
  /// What becomes of the spaces with which a decoded sequence begins.
  enum class LeadingSpace : std::uint8_t {
    keep,
    drop_one,
    drop_all,
    drop_in_first_piece,  ///< all spaces of the first piece, wherever in it
  };
  /// What becomes of bytes that make no character.
  enum class BrokenBytes : std::uint8_t {
    each,     ///< U+FFFD for each of them
    run,      ///< U+FFFD for each byte of a run of byte pieces, where there is one such byte in the run
    subpart,  ///< U+FFFD for each maximal subpart of a character (Unicode 15, section 3.9)
  };
  /// How pieces are put together to a text.
  struct Decoding {
    LeadingSpace leading_space = LeadingSpace::keep;
    BrokenBytes broken_bytes = BrokenBytes::each;
    bool join_over_controls = false;  ///< byte pieces left and right of a control piece may make one character
  };

  virtual ~Tokenizer() = default;
  /// Ids below this have a piece, or are holes in the vocabulary.
  [[nodiscard]] virtual std::int32_t vocabulary() const noexcept = 0;
  /// `text` is UTF-8; bytes that are none count as U+FFFD.
  [[nodiscard]] virtual std::vector<std::int32_t> encode(std::string_view text, EncodeOptions options = {}) const = 0;
  /// For an id outside the vocabulary (a model's padding rows): a control piece without a name.
  [[nodiscard]] virtual const Piece& piece(std::int32_t id) const noexcept = 0;
  [[nodiscard]] virtual Decoding decoding() const noexcept = 0;
  /// The control piece of this name, if there is one.
  [[nodiscard]] virtual std::optional<std::int32_t> special_token(std::string_view name) const = 0;
  /// The model's begin and end of sequence, where it names one; whether `encode` adds them is another matter.
  [[nodiscard]] virtual std::optional<std::int32_t> begin_of_sequence() const noexcept = 0;
  [[nodiscard]] virtual std::optional<std::int32_t> end_of_sequence() const noexcept = 0;
};

/// The tokenizer of a model folder: `tokenizer.json`, or where there is none `tokenizer.model` (sentencepiece). Where
/// both are there, HF takes tokenizer.json, and it alone has the added tokens; the model's reference outputs come from
/// it. `tokenizer_config.json` beside it has `add_bos_token` and `add_eos_token` (with tokenizer.json: that file's
/// post-processor says what is added, unless one of these fields is there; with tokenizer.model: true and false), and
/// names special tokens. Null where the folder has neither file. Throws InputError when a file is there and can't be
/// read, and for a tokenizer.json that needs what isn't supported.
[[nodiscard]] std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model);

}  // namespace coterie
