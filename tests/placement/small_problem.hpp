// Small random placement problems with the trace they come from, and the best placement by trying all.
#pragma once

#include "placement/problem.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace coterie {

struct SmallShape {
  int layers = 3;
  int experts = 6;
  int top_k = 1;
  int tokens = 60;
  bool gates = false;      ///< the trace has gate weights
  double skipped = 0;      ///< share of the choices that are left out (a token may have no expert at a layer)
  double structure = 0.7;  ///< how much of a token's choices is decided by the layer before
};

/// A problem and the trace that it points into.
struct SmallProblem {
  std::shared_ptr<Trace> trace;
  Problem problem;

  /// Counts the statistics again after the objective changed: by gate for affinity, plainly otherwise.
  void recount();
};

[[nodiscard]] Trace small_trace(const SmallShape& shape, std::uint64_t seed);
/// No load limit, objective affinity.
[[nodiscard]] SmallProblem small_problem(const SmallShape& shape, const Topology& topology, std::uint64_t seed);

/// The best of all placements that keep the problem's limits, by `value` (default: evaluate); none: no placement keeps
/// them. Renaming ranks is tried only once where the topology is one node.
struct Best {
  Assignment assignment;
  double value = 0;
};
[[nodiscard]] std::optional<Best> best_of_all(const Problem& problem);

/// The same with the problem's replicas: every expert on one rank or more, no more copies than asked for.
struct BestOwners {
  Owners owners;
  double value = 0;
};
[[nodiscard]] std::optional<BestOwners> best_owners_of_all(const Problem& problem);

}  // namespace coterie
