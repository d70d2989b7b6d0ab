// Text to token ids, and what text each token stands for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

/// A tokenizer of a model folder. Immutable; all members may be called from several threads.
class Tokenizer {
 public:
  enum class PieceKind : std::uint8_t {
    text,     ///< some characters
    byte,     ///< one byte, of a character that takes several such pieces
    control,  ///< no text: begin and end of a sequence, padding
  };
  struct Piece {
    PieceKind kind = PieceKind::control;
    std::string text;  ///< text: UTF-8; byte: the byte; control: the name, such as "</s>"
  };
  /// What becomes of the spaces with which a decoded sequence begins.
  enum class LeadingSpace : std::uint8_t { keep, drop_one, drop_all };

  virtual ~Tokenizer() = default;
  /// Ids below this have a piece.
  [[nodiscard]] virtual std::int32_t vocabulary() const noexcept = 0;
  /// Begins with the model's begin-of-sequence token where the model wants one and `special_tokens` is set (and ends
  /// with its end-of-sequence token, which few models want). The text is taken literally: "</s>" in it is four
  /// characters.
  [[nodiscard]] virtual std::vector<std::int32_t> encode(std::string_view text, bool special_tokens = true) const = 0;
  /// For an id outside the vocabulary (a model's padding rows): a control piece without a name.
  [[nodiscard]] virtual const Piece& piece(std::int32_t id) const noexcept = 0;
  [[nodiscard]] virtual LeadingSpace leading_space() const noexcept = 0;
};

/// The tokenizer of a model folder: `tokenizer.model` (sentencepiece), and `tokenizer_config.json` beside it for
/// `add_bos_token` (default true) and `add_eos_token` (default false). Null where the folder has no tokenizer.model.
/// Throws InputError when a file is there and can't be read.
[[nodiscard]] std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model);

}  // namespace coterie
