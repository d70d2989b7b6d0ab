// Files with a JSON value on each line.
#pragma once

#include "placement/files/json_view.hpp"

#include <filesystem>
#include <functional>
#include <optional>
#include <string>

namespace coterie {

/// Calls `take` with the value of each line that isn't blank, in order; the line number is in the messages of its
/// views. Throws InputError when the file can't be read or a line is not JSON.
void for_each_json_line(const std::filesystem::path& path, const std::function<void(const JsonView&)>& take);
/// The first line's value; nothing when it is not JSON or the file can't be read.
[[nodiscard]] std::optional<nlohmann::json> first_json_line(const std::filesystem::path& path);

/// The text under `key` of the first line's object; empty when there is none.
[[nodiscard]] std::string first_line_text(const std::filesystem::path& path, const std::string& key);

}  // namespace coterie
