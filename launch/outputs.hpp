// What a command is asked to write, looked at before it works for it.
#pragma once

#include <filesystem>
#include <span>
#include <string>

namespace coterie {

/// A file as messages call it; no path: not asked for.
struct NamedFile {
  std::string name;  ///< "--output", "the input a.json"
  std::filesystem::path path;
};

/// Throws InputError for an output that is one of the inputs or another output, also by another name of it and where
/// neither is there yet. Nothing is opened.
void expect_apart(const std::string& command, std::span<const NamedFile> outputs, std::span<const NamedFile> inputs);

/// The same, and for an output that can't be written. Nothing that is there is touched.
void check_outputs(const std::string& command, std::span<const NamedFile> outputs, std::span<const NamedFile> inputs);

}  // namespace coterie
