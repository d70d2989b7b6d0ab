#include "runtime/requests/request_reader.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace coterie {

RequestReader::RequestReader(const std::filesystem::path& path, const RequestRules& rules)
    : path_(path), rules_(rules) {
  if (std::filesystem::is_directory(path))
    throw InputError(path.string() + ": found a folder, expected a requests file");
  // The file is read more than once: to count its lines, and by every job that goes on with the same output. A pipe
  // would already be waited for when it is opened.
  if (std::filesystem::is_other(path)) {
    throw InputError(path.string() + ": found a pipe or a device, expected a regular file");
  }
  file_.open(path, std::ios::binary);
  if (!file_) throw InputError(path.string() + ": can't be opened: " + std::strerror(errno));
}

bool RequestReader::read_line() {
  line_.clear();
  too_long_ = false;
  std::streambuf& bytes = *file_.rdbuf();
  bool any = false;
  for (int c = bytes.sbumpc(); c != std::char_traits<char>::eof(); c = bytes.sbumpc()) {
    any = true;
    if (c == '\n') break;
    if (line_.size() < kLongestLine) {
      line_.push_back(static_cast<char>(c));
    } else {
      too_long_ = true;
    }
  }
  ++number_;
  if (number_ == 1 && line_.starts_with("\xEF\xBB\xBF")) line_.erase(0, 3);  // a byte-order mark
  return any;
}

std::optional<RequestOrError> RequestReader::next() {
  try {
    do {
      if (!read_line()) return std::nullopt;
    } while (line_.find_first_not_of(" \t\r") == std::string::npos);
  } catch (const std::ios_base::failure& e) {
    throw InputError(path_.string() + ": line " + std::to_string(number_ + 1) + " can't be read: " + e.what());
  }

  const std::string here = "line " + std::to_string(number_) + ": ";
  if (too_long_) {
    return RequestError{"", number_, "line_too_long",
                        here + "found more than " + std::to_string(kLongestLine) + " bytes, expected at most that"};
  }
  RequestOrError parsed = parse_request(line_, number_, rules_);
  const std::string& id = std::visit([](const auto& p) -> const std::string& { return p.custom_id; }, parsed);
  if (id.empty()) return parsed;
  const auto [first, is_new] = line_of_id_.emplace(id, number_);
  if (is_new) return parsed;
  return RequestError{id, number_, "duplicate_custom_id",
                      here + "custom_id: found \"" + id + "\", which line " + std::to_string(first->second) + " has"};
}

}  // namespace coterie
