// A routing trace: which experts each token chose at each MoE layer. File format: coterie.trace/1 (safetensors).
#pragma once

#include "placement/files/half.hpp"

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace coterie {

enum class GateOrder { descending, unordered };

struct Trace {
  /// What stands in place of an expert where a token has fewer than top_k. In the file: 255 (U8) or 65535 (U16).
  static constexpr std::uint16_t kNoExpert = 65535;

  std::string model;
  std::string requests;  ///< which lines `sequence` counts: "N sha256:…" of the first N bytes of their file, or empty
  int num_experts = 0;
  int top_k = 0;
  std::vector<int> layer_ids;  ///< (layers): which layer of the model each column is
  GateOrder gate_order = GateOrder::descending;

  std::vector<std::uint16_t> experts;  ///< (tokens, layers, top_k)
  std::vector<Half> weights;           ///< (tokens, layers, top_k) gate weights, or empty; F16 in the file too
  std::vector<std::int32_t> sequence;  ///< (tokens), or empty; the tokens of a sequence lie together, in order
  std::vector<std::int32_t> position;  ///< (tokens) index in the sequence, or empty

  [[nodiscard]] int layers() const noexcept { return static_cast<int>(layer_ids.size()); }
  [[nodiscard]] std::int64_t tokens() const noexcept {
    const auto row = static_cast<std::int64_t>(layers()) * top_k;
    return row == 0 ? 0 : static_cast<std::int64_t>(experts.size()) / row;
  }
};

/// Throws InputError (file, field, found, expected) for anything that is not a valid trace: wrong format string, ids
/// out of range, shapes that contradict one another, NaN weights, no tokens.
[[nodiscard]] Trace read_trace(const std::filesystem::path& path);
/// What read_trace checks; `where` stands for the file in messages.
void validate(const Trace& trace, const std::string& where);
/// Writes U8 ids up to 255 experts, U16 beyond. Replaces `path` in one step.
void write_trace(const std::filesystem::path& path, const Trace& trace);

}  // namespace coterie
