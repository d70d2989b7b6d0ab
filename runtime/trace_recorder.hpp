// Records the routing of every token that goes through the model on one rank, and puts the ranks' records together.
#pragma once

#include "comm/communicator.hpp"
#include "placement/trace.hpp"
#include "runtime/batch.hpp"

#include <cstdint>
#include <vector>

namespace coterie {

class TraceRecorder {
 public:
  TraceRecorder(int layers, int top_k) : layers_(layers), top_k_(top_k) {}

  /// Layers of a step come in order, beginning with 0.
  void record(const Batch& batch, int layer, const Routing& routing);

  /// All ranks' records on rank 0, by request line and position; an empty trace elsewhere. `sequence` is the line of
  /// the request in the input file, from 1. Collective.
  [[nodiscard]] Trace gather(Communicator& comm, Trace header) const;

 private:
  struct Token {
    std::int64_t sequence = 0;
    std::int64_t position = 0;
  };
  int layers_;
  int top_k_;
  std::vector<Token> tokens_;
  std::vector<std::uint16_t> experts_;  ///< (tokens, layers, top_k)
  std::vector<Half> weights_;           ///< the same
};

}  // namespace coterie
