// What one rank computes in one step.
#pragma once

#include "kernels/device.hpp"

#include <cstdint>
#include <vector>

namespace coterie {

/// Rows of sequences at home on this rank: chunks of prompts and decode rows, one after the other.
struct Batch {
  std::vector<std::int32_t> tokens;     ///< (rows)
  std::vector<std::int64_t> positions;  ///< (rows)
  std::vector<SequenceRows> sequences;  ///< cover the rows; their blocks belong to the scheduler
  std::vector<std::int64_t> requests;   ///< (sequences): the input line of each sequence's request
  std::vector<std::int32_t> sampled;    ///< rows whose logits are wanted, ascending
  std::int64_t prompt_rows = 0;

  [[nodiscard]] std::int64_t rows() const noexcept { return static_cast<std::int64_t>(tokens.size()); }
};

}  // namespace coterie
