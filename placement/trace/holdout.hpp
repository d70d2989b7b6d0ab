// Keeps a share of the sequences out of what a plan is fitted on, to see whether the fit carries over.
#pragma once

#include "placement/trace/statistics.hpp"

#include <cstdint>
#include <vector>

namespace coterie {

/// Windows of the same traces; a trace falls apart into runs of neighbouring sequences.
struct Split {
  std::vector<WeightedTrace> fitted;
  std::vector<WeightedTrace> left_out;
};

/// Of each part, `share` of the sequences is left out, chosen by `seed` alone: at least one, and at least one stays. In
/// a trace that doesn't know its sequences, every 256 tokens count as one. Throws InputError when a part has only one.
[[nodiscard]] Split hold_out(const std::vector<WeightedTrace>& parts, double share, std::uint64_t seed);

}  // namespace coterie
