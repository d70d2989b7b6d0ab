// What a command is asked to write, looked at before it works for it.
#pragma once

#include <filesystem>
#include <span>
#include <string>

namespace coterie {

/// An option that names a file to write; no path: not asked for.
struct Output {
  std::string option;  ///< "--output"
  std::filesystem::path path;
};

/// Throws InputError for an output that is one of the inputs or another output (also by another name of it), or that
/// can't be written. Nothing that is there is touched.
void check_outputs(const std::string& command, std::span<const Output> outputs,
                   std::span<const std::filesystem::path> inputs);

}  // namespace coterie
