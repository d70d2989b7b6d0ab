// Facts of a trace that tell whether placement can gain anything: affinity, skew, locality.
#pragma once

#include "placement/trace/statistics.hpp"
#include "placement/trace/trace.hpp"

#include <vector>

namespace coterie {

/// How much an expert says about the next layer's, for one pair of layers.
struct AffinityStrength {
  double top_successor = 0;       ///< share of the pairs' weight that goes to the likeliest successor of each expert
  double independent = 0;         ///< the same, were layers independent: the share of the likeliest expert
  double mutual_information = 0;  ///< bits of a pair
};
/// (layers - 1). Needs affinity; a pair of layers without weight is all zeros.
[[nodiscard]] std::vector<AffinityStrength> affinity_strength(const Statistics& statistics);

/// Rows of a layer's experts over the mean of the layer.
struct LoadSkew {
  double heaviest = 0;
  double lightest = 0;
  int idle = 0;  ///< experts without rows
};
/// (layers)
[[nodiscard]] std::vector<LoadSkew> load_skew(const Statistics& statistics);

/// How much of a token's choice at a layer the token behind it in the sequence repeats.
struct RoutingConsistency {
  double overlap = 0;      ///< mean over neighbours of |both| / mean of the two sizes
  double independent = 0;  ///< the same, were tokens drawn independently
};
/// (layers); empty when no two tokens of the trace are known to be neighbours in a sequence.
[[nodiscard]] std::vector<RoutingConsistency> routing_consistency(const Trace& trace);

}  // namespace coterie
