#include "placement/files/json_lines.hpp"

#include "placement/input_error.hpp"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <string>

namespace coterie {

void for_each_json_line(const std::filesystem::path& path, const std::function<void(const JsonView&)>& take) {
  if (std::filesystem::is_directory(path)) throw InputError(path.string() + ": is a folder, expected a file");
  std::ifstream in(path);
  if (!in) throw InputError(path.string() + ": cannot open: " + std::strerror(errno));
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = path.string() + ":" + std::to_string(number);
    const nlohmann::json value = parse_json(line, where);
    take(JsonView(value, where));
  }
  if (in.bad()) throw InputError(path.string() + ": cannot read: " + std::strerror(errno));
}

std::optional<nlohmann::json> first_json_line(const std::filesystem::path& path) {
  std::ifstream in(path);
  std::string line;
  if (!std::getline(in, line)) return std::nullopt;
  try {
    return parse_json(line, path.string());
  } catch (const InputError&) {
    return std::nullopt;
  }
}

std::string first_line_text(const std::filesystem::path& path, const std::string& key) {
  const auto first = first_json_line(path);
  const bool has = first && first->is_object() && first->contains(key) && first->at(key).is_string();
  return has ? first->at(key).get<std::string>() : "";
}

}  // namespace coterie
