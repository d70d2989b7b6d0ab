#include "runtime/trace_recorder.hpp"

#include "runtime/agreement.hpp"
#include "runtime/bytes.hpp"

#include <algorithm>
#include <numeric>

namespace coterie {
namespace {

template <class T>
void take_all(ByteReader& read, std::vector<T>& onto) {
  std::vector<T> more;
  read(more);
  onto.insert(onto.end(), more.begin(), more.end());
}

}  // namespace

void TraceRecorder::record(const Batch& batch, int layer, const Routing& routing) {
  const auto rows = static_cast<std::size_t>(batch.rows());
  const auto row_size = static_cast<std::size_t>(layers_) * static_cast<std::size_t>(top_k_);
  if (layer == 0) {
    for (std::size_t s = 0; s < batch.sequences.size(); ++s) {
      for (std::int64_t i = 0; i < batch.sequences[s].rows; ++i) {
        tokens_.push_back({batch.requests[s], batch.sequences[s].first_position + i});
      }
    }
    experts_.resize(tokens_.size() * row_size);
    weights_.resize(tokens_.size() * row_size);
  }
  const std::size_t first = tokens_.size() - rows;
  for (std::size_t t = 0; t < rows; ++t) {
    for (std::size_t j = 0; j < static_cast<std::size_t>(top_k_); ++j) {
      const std::size_t from = t * top_k_ + j;
      const std::size_t to = (first + t) * row_size + static_cast<std::size_t>(layer) * top_k_ + j;
      experts_[to] = static_cast<std::uint16_t>(routing.experts[from]);
      weights_[to] = routing.weights[from];
    }
  }
}

Trace TraceRecorder::gather(Communicator& comm, Trace trace) const {
  std::vector<std::byte> mine;
  ByteWriter write{mine};
  write(tokens_);
  write(experts_);
  write(weights_);

  std::vector<Token> tokens;
  std::vector<std::uint16_t> experts;
  std::vector<Half> weights;
  for (const auto& bytes : gather_on_first(comm, mine, {"trace"})) {
    std::span<const std::byte> in = bytes;
    ByteReader read{in};
    take_all(read, tokens);
    take_all(read, experts);
    take_all(read, weights);
  }

  const auto row_size = static_cast<std::size_t>(layers_) * static_cast<std::size_t>(top_k_);
  std::vector<std::size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(tokens[a].sequence, tokens[a].position) < std::pair(tokens[b].sequence, tokens[b].position);
  });
  for (const std::size_t t : order) {
    trace.sequence.push_back(static_cast<std::int32_t>(tokens[t].sequence));
    trace.position.push_back(static_cast<std::int32_t>(tokens[t].position));
    trace.experts.insert(trace.experts.end(), &experts[t * row_size], &experts[t * row_size] + row_size);
    trace.weights.insert(trace.weights.end(), &weights[t * row_size], &weights[t * row_size] + row_size);
  }
  return trace;
}

}  // namespace coterie
