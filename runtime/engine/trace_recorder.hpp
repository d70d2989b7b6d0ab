// Records the routing of every token that goes through the model on one rank, and puts the ranks' records together.
#pragma once

#include "comm/communicator.hpp"
#include "placement/trace/trace.hpp"
#include "runtime/layers/batch.hpp"

#include <cstdint>
#include <vector>

namespace coterie {

class TraceRecorder {
 public:
  TraceRecorder(int rank, int top_k) : rank_(rank), top_k_(top_k) {}

  /// The choices of some rows of a batch at one layer; a row's layers may be recorded on different ranks.
  void record(const Batch& batch, std::span<const std::int32_t> rows, int layer, const Routing& routing);

  /// All ranks' records on rank 0, by request line and position; an empty trace elsewhere. `sequence` is the line of
  /// the request in the input file, from 1. Collective.
  [[nodiscard]] Trace gather(Communicator& comm, Trace header) const;

 private:
  struct Choice {
    std::int64_t sequence = 0;
    std::int64_t position = 0;
    std::int64_t layer = 0;
    friend auto operator<=>(const Choice&, const Choice&) = default;
  };
  int rank_;
  int top_k_;
  std::vector<Choice> choices_;
  std::vector<std::uint16_t> experts_;  ///< (choices, top_k)
  std::vector<Half> weights_;           ///< the same
};

}  // namespace coterie
