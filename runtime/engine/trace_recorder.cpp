#include "runtime/engine/trace_recorder.hpp"

#include "comm/bytes.hpp"
#include "runtime/engine/agreement.hpp"

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

void TraceRecorder::record(const Batch& batch, std::span<const std::int32_t> rows, int layer, const Routing& routing) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const BatchSequence& sequence = batch.of(rows[i]);
    if (sequence.replicated && sequence.home != rank_) continue;
    choices_.push_back({sequence.request, batch.position(rows[i]), layer});
    const auto first = static_cast<std::ptrdiff_t>(i) * routing.top_k;
    experts_.insert(experts_.end(), routing.experts.begin() + first, routing.experts.begin() + first + routing.top_k);
    weights_.insert(weights_.end(), routing.weights.begin() + first, routing.weights.begin() + first + routing.top_k);
    experts_.resize(choices_.size() * top_k_, Trace::kNoExpert);  // a layer's k may be less than the largest
    weights_.resize(choices_.size() * top_k_);
  }
}

Trace TraceRecorder::gather(Communicator& comm, Trace trace) const {
  std::vector<std::byte> mine;
  ByteWriter write{mine};
  write(choices_);
  write(experts_);
  write(weights_);

  std::vector<Choice> choices;
  std::vector<std::uint16_t> experts;
  std::vector<Half> weights;
  for (const auto& bytes : gather_on_first(comm, mine, {"trace"})) {
    std::span<const std::byte> in = bytes;
    ByteReader read{in};
    take_all(read, choices);
    take_all(read, experts);
    take_all(read, weights);
  }

  std::vector<std::size_t> order(choices.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return choices[a] < choices[b]; });
  for (const std::size_t c : order) {  // by sequence, position and layer: as the trace has them
    if (choices[c].layer == 0) {
      trace.sequence.push_back(static_cast<std::int32_t>(choices[c].sequence));
      trace.position.push_back(static_cast<std::int32_t>(choices[c].position));
    }
    const auto first = static_cast<std::ptrdiff_t>(c) * top_k_;
    trace.experts.insert(trace.experts.end(), experts.begin() + first, experts.begin() + first + top_k_);
    trace.weights.insert(trace.weights.end(), weights.begin() + first, weights.begin() + first + top_k_);
  }
  return trace;
}

}  // namespace coterie
