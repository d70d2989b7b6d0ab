// What another system recorded, before it is a trace: rows that may be dense layers, ids of any width.
#pragma once

#include "placement/formats/formats.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace coterie {

struct RecordedChoices {
  int layers = 0;                      ///< rows of a token, dense layers too where the system counts them
  int width = 0;                       ///< choices of a row, unused ones too
  std::vector<std::int32_t> experts;   ///< (tokens, layers, width); -1: none
  std::vector<float> weights;          ///< of the same shape, or empty
  std::vector<std::int32_t> sequence;  ///< (tokens), or empty
  std::vector<std::int32_t> position;  ///< (tokens), or empty
  std::vector<int> layer_ids;          ///< (layers) where the file says which they are, else empty: from 0
  int num_experts = 0;                 ///< where the file says it
  GateOrder gate_order = GateOrder::unordered;
};

/// Leaves out dense layers (named by the options, or rows where no token has a choice), trims unused columns, and
/// validates. `where` stands for the file in messages.
[[nodiscard]] Trace trace_of(const RecordedChoices& recorded, const FormatOptions& options, const std::string& where);

struct RecordedCounts {
  int layers = 0;
  int num_experts = 0;
  std::vector<std::int64_t> counts;  ///< (records, layers, num_experts)
  std::vector<int> layer_ids;        ///< as above
  int top_k = 0;                     ///< where the file says it
};

/// The same for counts; says which objectives they support.
[[nodiscard]] LoadTrace load_of(const RecordedCounts& recorded, const FormatOptions& options, const std::string& where);

}  // namespace coterie
