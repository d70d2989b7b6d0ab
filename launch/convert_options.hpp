// What `coterie convert` is asked to do.
#pragma once

#include "placement/formats/formats.hpp"

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace coterie {

struct ConvertOptions {
  std::vector<std::filesystem::path> inputs;
  std::filesystem::path output;
  std::string from;  ///< a format's name; empty: seen from the content
  std::string to;    ///< a format's name; empty: the project's own
  FormatOptions format;
};

/// Nothing when help was asked for. Throws InputError.
[[nodiscard]] std::optional<ConvertOptions> parse_convert_options(std::span<const char* const> arguments);
/// Options and formats; one screen.
[[nodiscard]] std::string convert_help();

}  // namespace coterie
