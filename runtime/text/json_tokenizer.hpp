// The tokenizer of models that come with a tokenizer.json, as HF `tokenizers` reads it.
#pragma once

#include "runtime/text/tokenizer.hpp"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <memory>

namespace coterie {

/// `path` is a tokenizer.json with a BPE model; `config` what the folder's tokenizer_config.json holds, or an empty
/// object: special tokens that it names or adds, and `add_bos_token` and `add_eos_token`, which count where they are
/// there, and the post-processor of tokenizer.json where they aren't. Truncation and padding are left out. Throws
/// InputError for what is wrong, and what isn't supported.
[[nodiscard]] std::unique_ptr<Tokenizer> make_json_tokenizer(const std::filesystem::path& path,
                                                             const nlohmann::json& config,
                                                             const std::filesystem::path& config_path);

}  // namespace coterie
