// How often each expert was chosen, without the choices behind it: enough to balance load, not to follow tokens. File
// format: coterie.load/1 (safetensors).
#pragma once

#include "placement/trace/statistics.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace coterie {

/// A record is what was counted together: a prompt, a step, a batch.
struct LoadTrace {
  std::string model;
  int num_experts = 0;
  int top_k = 0;
  std::vector<int> layer_ids;         ///< (layers)
  std::vector<std::uint32_t> counts;  ///< (records, layers, num_experts): times that the expert was chosen

  [[nodiscard]] int layers() const noexcept { return static_cast<int>(layer_ids.size()); }
  [[nodiscard]] std::int64_t records() const noexcept {
    const auto row = static_cast<std::int64_t>(layers()) * num_experts;
    return row == 0 ? 0 : static_cast<std::int64_t>(counts.size()) / row;
  }
};

/// True when the file says that it is coterie.load/1. Throws InputError when it is no safetensors file.
[[nodiscard]] bool is_load_trace(const std::filesystem::path& path);
/// Throws InputError (file, field, found, expected). Reads U16 and U32 counts.
[[nodiscard]] LoadTrace read_load_trace(const std::filesystem::path& path);
/// What read_load_trace checks; `where` stands for the file in messages.
void validate(const LoadTrace& trace, const std::string& where);
/// Writes U32 counts. Replaces `path` in one step.
void write_load_trace(const std::filesystem::path& path, const LoadTrace& trace);

/// Statistics with load alone; affinity and coactivation stay empty. `first` and `count` select records (-1: all that
/// follow). Tokens are the rows of the heaviest layer over top_k.
[[nodiscard]] Statistics count(const LoadTrace& trace, std::int64_t first = 0, std::int64_t count = -1);

}  // namespace coterie
