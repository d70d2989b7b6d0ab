// The tokenizer of models that come with a sentencepiece model, on the sentencepiece library.
#pragma once

#include "runtime/text/tokenizer.hpp"

#include <filesystem>
#include <memory>

namespace coterie {

/// `path` is a `tokenizer.model`. `encode` adds begin and end of the sequence where asked to and the model has them.
/// Throws InputError when the file isn't a sentencepiece model.
[[nodiscard]] std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(const std::filesystem::path& path, bool add_begin,
                                                                      bool add_end);

}  // namespace coterie
