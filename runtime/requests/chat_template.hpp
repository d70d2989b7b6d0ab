// The chat templates of a model folder.
#pragma once

#include <filesystem>
#include <map>
#include <string>

namespace coterie {

struct ChatTemplate {
  std::string file;  ///< where it stands, for messages
  std::string text;  ///< Jinja
};

struct ChatTemplates {
  std::map<std::string, ChatTemplate> by_name;  ///< "default", "tool_use" and others; not empty
  std::map<std::string, std::string> tokens;    ///< what templates see as bos_token, eos_token and so on
};

/// As HF transformers finds them: `chat_template.jinja` (the default) and `additional_chat_templates/NAME.jinja`;
/// without any of these `chat_template` in tokenizer_config.json, a text or a list of {name, template}. Tokens are from
/// tokenizer_config.json and special_tokens_map.json. Throws InputError when there is no template, or a file that can't
/// be read.
[[nodiscard]] ChatTemplates read_chat_templates(const std::filesystem::path& model);

}  // namespace coterie
