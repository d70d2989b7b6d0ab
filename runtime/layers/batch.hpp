// What a coherence domain computes in one step: the same value on all its ranks but for what they know alone, which is
// where the rows are, and the tokens of decode rows, which only the ranks know where they begin.
#pragma once

#include "kernels/device.hpp"

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// Rows of one sequence in a step: a chunk of its prompt, or its one decode row.
struct BatchSequence {
  std::int64_t request = 0;  ///< line of the input file
  int home = 0;              ///< the rank that answers the request, and reads its prompt
  bool here = false;         ///< the rows begin the step on this rank; where they do so on none, there are none
  bool prompt = false;
  bool replicated = false;  ///< every rank of the domain does the dense work
  std::int32_t first_row = 0;
  std::int32_t rows = 0;
  std::int64_t first_position = 0;
  std::int64_t length = 0;               ///< of the sequence as far as its rows know: at least the prompt's
  std::span<const std::int32_t> blocks;  ///< of the KV cache, the same on all ranks of the domain
};

/// Rows are numbered through the sequences; a row keeps its number on whatever rank it is.
struct Batch {
  std::vector<BatchSequence> sequences;
  std::vector<std::int32_t> tokens;    ///< (rows); 0 where only another rank knows it
  std::vector<std::int32_t> sequence;  ///< (rows)
  std::vector<char> sampled;           ///< (rows): whether the row's logits are wanted

  [[nodiscard]] std::int32_t rows() const noexcept { return static_cast<std::int32_t>(tokens.size()); }
  [[nodiscard]] const BatchSequence& of(std::int32_t row) const { return sequences[sequence[row]]; }
  [[nodiscard]] bool has_prompts() const {
    return std::any_of(sequences.begin(), sequences.end(), [](const BatchSequence& s) { return s.prompt; });
  }
  /// Whether all ranks of the job have all rows: with one domain, when every sequence is replicated.
  [[nodiscard]] bool replicated_everywhere(int domains) const {
    return domains == 1 && !sequences.empty() &&
           std::all_of(sequences.begin(), sequences.end(), [](const BatchSequence& s) { return s.replicated; });
  }
  [[nodiscard]] std::int64_t position(std::int32_t row) const {
    return of(row).first_position + (row - of(row).first_row);
  }
};

/// Rows (ascending) as a device takes them: neighbours of one sequence together.
[[nodiscard]] std::vector<SequenceRows> sequence_rows(const Batch& batch, std::span<const std::int32_t> rows);
[[nodiscard]] std::vector<std::int64_t> positions_of(const Batch& batch, std::span<const std::int32_t> rows);

/// The rows of a step that are on this rank.
struct Resident {
  std::vector<std::int32_t> rows;  ///< ascending
  Tensor x;                        ///< (rows, hidden): the residual stream
};

}  // namespace coterie
