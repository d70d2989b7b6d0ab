#include "launch/outputs.hpp"

#include "placement/files/replacing_file.hpp"
#include "placement/input_error.hpp"

namespace coterie {
namespace {

namespace fs = std::filesystem;

/// Two terminals or pipes are no loss; two names of a file or folder are.
bool same_place(const fs::path& a, const fs::path& b) {
  std::error_code ignored;
  if (fs::exists(a, ignored) && fs::exists(b, ignored))
    return fs::equivalent(a, b, ignored) && (fs::is_regular_file(a, ignored) || fs::is_directory(a, ignored));
  return fs::weakly_canonical(fs::absolute(a), ignored) == fs::weakly_canonical(fs::absolute(b), ignored);
}

}  // namespace

void check_outputs(const std::string& command, std::span<const Output> outputs, std::span<const fs::path> inputs) {
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    const fs::path& path = outputs[o].path;
    if (path.empty()) continue;
    const auto wrong = [&](const std::string& expected) {
      return bad_field(command, outputs[o].option, "'" + path.string() + "'", expected);
    };
    for (const fs::path& input : inputs)
      if (same_place(path, input)) throw wrong("another file than the input " + input.string());
    for (const Output& other : outputs.first(o))
      if (!other.path.empty() && same_place(path, other.path)) throw wrong("another file than " + other.option);
    demand_writable(path);
  }
}

}  // namespace coterie
