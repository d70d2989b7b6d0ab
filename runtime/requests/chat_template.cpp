#include "runtime/requests/chat_template.hpp"

#include "placement/files/json_view.hpp"
#include "placement/input_error.hpp"

#include <array>
#include <utility>

namespace coterie {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

/// Empty where there is no such file.
Json read_object(const fs::path& path) {
  if (!fs::exists(path)) return Json::object();
  Json object = read_json(path, SameKeys::last_counts);
  if (!object.is_object()) throw bad_field(path.string(), "contents", object.type_name(), "an object");
  return object;
}

std::string text_of(const Json& object, const char* name, const std::string& file, const std::string& field) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_string()) {
    throw bad_field(file, field, found == object.end() ? "nothing" : found->dump(), "a text");
  }
  return found->get<std::string>();
}

std::map<std::string, ChatTemplate> from_files(const fs::path& model) {
  std::map<std::string, ChatTemplate> templates;
  const fs::path single = model / "chat_template.jinja", folder = model / "additional_chat_templates";
  if (fs::exists(single)) templates["default"] = {single.filename().string(), read_text(single)};
  if (!fs::is_directory(folder)) return templates;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const fs::path& file = entry.path();
    if (file.extension() != ".jinja") continue;
    templates[file.stem().string()] = {(folder.filename() / file.filename()).string(), read_text(file)};
  }
  return templates;
}

std::map<std::string, ChatTemplate> from_config(const Json& config, const fs::path& path) {
  const std::string file = path.filename().string(), where = file + " (chat_template";
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) return {};
  if (found->is_string()) return {{"default", {where + ")", found->get<std::string>()}}};
  if (!found->is_array()) {
    throw bad_field(path.string(), "chat_template", "something else", "a text or a list of templates");
  }
  std::map<std::string, ChatTemplate> templates;
  for (std::size_t i = 0; i < found->size(); ++i) {
    const std::string field = "chat_template[" + std::to_string(i) + "]";
    const std::string name = text_of((*found)[i], "name", path.string(), field + ".name");
    std::string source = where;
    source.append(" ").append(name).append(")");
    templates[name] = {std::move(source), text_of((*found)[i], "template", path.string(), field + ".template")};
  }
  return templates;
}

void add_tokens(const Json& config, std::map<std::string, std::string>& tokens) {
  static constexpr std::array<const char*, 7> kNames{"bos_token", "eos_token", "unk_token", "sep_token",
                                                     "pad_token", "cls_token", "mask_token"};
  for (const char* name : kNames) {
    const auto found = config.find(name);
    if (found == config.end()) continue;
    const Json token = found->is_object() ? found->value("content", Json()) : *found;
    if (token.is_string()) tokens[name] = token.get<std::string>();
  }
}

}  // namespace

ChatTemplates read_chat_templates(const fs::path& model) {
  const fs::path path = model / "tokenizer_config.json";
  const Json config = read_object(path);
  ChatTemplates templates;
  templates.by_name = from_files(model);
  if (templates.by_name.empty()) templates.by_name = from_config(config, path);
  if (templates.by_name.empty()) {
    throw InputError(model.string() + ": found no chat template, expected chat_template.jinja or chat_template in " +
                     path.filename().string());
  }
  add_tokens(config, templates.tokens);
  // Newer folders list all added tokens in the configuration; the second file counts for the older ones only.
  if (!config.contains("added_tokens_decoder"))
    add_tokens(read_object(model / "special_tokens_map.json"), templates.tokens);
  return templates;
}

}  // namespace coterie
