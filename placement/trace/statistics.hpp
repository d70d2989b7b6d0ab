// What placement needs to know of traces, counted in one pass: load, affinity, co-activation.
#pragma once

#include "placement/trace/trace.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// A trace and how much it counts. `first`/`count` select a window of its tokens (count -1: all that follow).
struct WeightedTrace {
  const Trace* trace = nullptr;
  double weight = 1;
  std::int64_t first = 0;
  std::int64_t count = -1;
};

/// Sums over tokens, times the weight of their trace. A pair of choices counts with the product of their gate weights
/// where the trace has weights and `by_gate` is asked for, else 1; load counts rows. Row-major; layers are the traces'
/// columns.
struct Statistics {
  int layers = 0;
  int experts = 0;
  double tokens = 0;

  std::vector<double> load;      ///< (layers, experts): rows
  std::vector<double> affinity;  ///< (layers - 1, experts, experts): i at l and j at l + 1, all k x k pairs of a token
  /// (layers, experts, experts): pairs i != j of a token, each counted at (i, j) and at (j, i); diagonal 0
  std::vector<double> coactivation;

  [[nodiscard]] std::span<const double> affinity_at(int layer) const {
    const std::size_t n = static_cast<std::size_t>(experts) * experts;
    return std::span(affinity).subspan(layer * n, n);
  }
  [[nodiscard]] std::span<const double> coactivation_at(int layer) const {
    const std::size_t n = static_cast<std::size_t>(experts) * experts;
    return std::span(coactivation).subspan(layer * n, n);
  }
  [[nodiscard]] std::span<const double> load_at(int layer) const {
    return std::span(load).subspan(static_cast<std::size_t>(layer) * experts, experts);
  }
};

struct CountOptions {
  bool by_gate = true;  ///< weigh pairs by the gate weights where the trace has them
  int top = 0;          ///< count only the first `top` choices of a token (1: ExFlow's top-1); 0: all
  int threads = 0;      ///< 0: all cores
};

/// One pass over the tokens, layers in parallel; the same result for any number of threads. Throws InputError when
/// there is no token, the traces are of different models (experts, layer_ids), a window or weight makes no sense, or
/// `top` is asked of a trace without gate order.
[[nodiscard]] Statistics count(std::span<const WeightedTrace> traces, const CountOptions& options = {});

}  // namespace coterie
