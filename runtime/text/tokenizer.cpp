#include "runtime/text/tokenizer.hpp"

#include "placement/files/json_view.hpp"
#include "placement/input_error.hpp"
#include "runtime/text/json_tokenizer.hpp"
#include "runtime/text/sentencepiece_tokenizer.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>

namespace coterie {
namespace {

bool read_flag(const nlohmann::json& config, const std::filesystem::path& path, const char* field, bool otherwise) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return otherwise;
  if (!found->is_boolean()) throw bad_field(path.string(), field, found->dump(), "true or false");
  return found->get<bool>();
}

}  // namespace

bool EncodeOptions::has_border(std::size_t begin, std::size_t end) const noexcept {
  const auto inside = std::upper_bound(borders.begin(), borders.end(), begin);
  return inside != borders.end() && *inside < end;
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& model) {
  const std::filesystem::path json = model / "tokenizer.json", pieces = model / "tokenizer.model";
  if (!std::filesystem::exists(json) && !std::filesystem::exists(pieces)) return nullptr;
  const std::filesystem::path path = model / "tokenizer_config.json";
  nlohmann::json config = nlohmann::json::object();
  if (std::filesystem::exists(path)) config = read_json(path, SameKeys::last_counts);
  if (!config.is_object()) throw bad_field(path.string(), "contents", config.type_name(), "an object");
  if (std::filesystem::exists(json)) return make_json_tokenizer(json, config, path);
  return make_sentencepiece_tokenizer(pieces, read_flag(config, path, "add_bos_token", true),
                                      read_flag(config, path, "add_eos_token", false));
}

}  // namespace coterie
