#include "placement/trace/holdout.hpp"

#include "placement/input_error.hpp"
#include "placement/splitmix.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace coterie {
namespace {

constexpr std::int64_t kBlock = 256;  // tokens that stand for a sequence where the trace has none

// First tokens of the part's sequences, and the end.
std::vector<std::int64_t> starts_of(const WeightedTrace& part) {
  const Trace& trace = *part.trace;
  const std::int64_t last = part.count < 0 ? trace.tokens() : std::min(trace.tokens(), part.first + part.count);
  std::vector<std::int64_t> starts;
  for (std::int64_t t = part.first; t < last; ++t) {
    const bool goes_on = t > part.first && (trace.sequence.empty() ? (t - part.first) % kBlock != 0
                                                                   : trace.sequence[t] == trace.sequence[t - 1]);
    if (!goes_on) starts.push_back(t);
  }
  starts.push_back(last);
  return starts;
}

}  // namespace

Split hold_out(const std::vector<WeightedTrace>& parts, double share, std::uint64_t seed) {
  Split split;
  SplitMix random(seed);
  for (const WeightedTrace& part : parts) {
    const std::vector<std::int64_t> starts = starts_of(part);
    const int sequences = static_cast<int>(starts.size()) - 1;
    if (sequences < 2)
      throw bad_field("holdout", "sequences of a trace", std::to_string(sequences), "at least 2 to leave one out");
    std::vector<int> order(sequences);
    std::iota(order.begin(), order.end(), 0);
    for (int i = sequences - 1; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
    const int out = std::clamp(static_cast<int>(std::lround(share * sequences)), 1, sequences - 1);
    std::vector<bool> left_out(sequences, false);
    for (int i = 0; i < out; ++i) left_out[order[i]] = true;
    for (int s = 0, end = 0; s < sequences; s = end) {
      while (end < sequences && left_out[end] == left_out[s]) ++end;
      auto& side = left_out[s] ? split.left_out : split.fitted;
      side.push_back({part.trace, part.weight, starts[s], starts[end] - starts[s]});
    }
  }
  return split;
}

}  // namespace coterie
