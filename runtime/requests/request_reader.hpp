// A requests file, line by line.
#pragma once

#include "runtime/requests/request_parser.hpp"

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <unordered_map>

namespace coterie {

/// Reads as it is asked to: of a file of any size only a line and the custom_ids seen are in memory.
class RequestReader {
 public:
  static constexpr std::size_t kLongestLine = std::size_t{16} << 20;  ///< bytes; a longer one is wrong, and skipped

  /// Throws InputError when the file can't be opened.
  RequestReader(const std::filesystem::path& path, const RequestRules& rules);

  /// The next line that is not blank; nothing at the end. A custom_id belongs to the first line that has it, right or
  /// wrong. Throws InputError when the file can't be read further.
  [[nodiscard]] std::optional<RequestOrError> next();

 private:
  [[nodiscard]] bool read_line();

  std::filesystem::path path_;
  RequestRules rules_;
  std::ifstream file_;
  std::string line_;       // without its end
  bool too_long_ = false;  // then line_ holds the first kLongestLine bytes
  std::int64_t number_ = 0;
  std::unordered_map<std::string, std::int64_t> line_of_id_;
};

}  // namespace coterie
