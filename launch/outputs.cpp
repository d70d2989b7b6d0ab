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
  return place_of(a) == place_of(b);
}

}  // namespace

void expect_apart(const std::string& command, std::span<const NamedFile> outputs, std::span<const NamedFile> inputs) {
  for (std::size_t o = 0; o < outputs.size(); ++o) {
    const auto& [option, path] = outputs[o];
    const auto demand_other = [&](std::span<const NamedFile> others) {
      for (const NamedFile& other : others) {
        if (path.empty() || other.path.empty() || !same_place(path, other.path)) continue;
        throw bad_field(command, option, "'" + path.string() + "'", "another file than " + other.name);
      }
    };
    demand_other(inputs);
    demand_other(outputs.first(o));
  }
}

void check_outputs(const std::string& command, std::span<const NamedFile> outputs, std::span<const NamedFile> inputs) {
  expect_apart(command, outputs, inputs);
  for (const NamedFile& output : outputs)
    if (!output.path.empty()) demand_writable(output.path);
}

}  // namespace coterie
