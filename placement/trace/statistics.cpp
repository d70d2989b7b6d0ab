#include "placement/trace/statistics.hpp"

#include "placement/input_error.hpp"
#include "placement/parallel.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace coterie {
namespace {

constexpr int kMostExperts = 4096;  // a table of pairs takes experts^2 doubles, for each layer

std::int64_t tokens_of(const WeightedTrace& t) {
  return t.count < 0 ? t.trace->tokens() - t.first : t.count;
}

/// Choices of a token that count.
int choices(const Trace& trace, int top) {
  return top == 0 ? trace.top_k : std::min(top, trace.top_k);
}

void check(std::span<const WeightedTrace> traces, const CountOptions& options) {
  if (traces.empty()) throw InputError("no trace: found nothing to count");
  const Trace& first = *traces.front().trace;
  if (first.num_experts > kMostExperts)
    throw bad_field("trace", "num_experts", std::to_string(first.num_experts),
                    "at most " + std::to_string(kMostExperts));
  for (std::size_t i = 0; i < traces.size(); ++i) {
    const Trace& trace = *traces[i].trace;
    const std::string where = "trace " + std::to_string(i + 1) + " of " + std::to_string(traces.size());
    if (trace.num_experts != first.num_experts)
      throw bad_field(where, "num_experts", std::to_string(trace.num_experts),
                      std::to_string(first.num_experts) + ", as in the first trace");
    if (trace.layer_ids != first.layer_ids)
      throw bad_field(where, "layer_ids", std::to_string(trace.layers()) + " layers that differ",
                      "the same layers as in the first trace");
    if (trace.gate_order == GateOrder::unordered && choices(trace, options.top) < trace.top_k)
      throw bad_field(where, "gate_order", "unordered",
                      "descending, to count the first " + std::to_string(options.top) + " choices");
    if (!(traces[i].weight >= 0) || !std::isfinite(traces[i].weight))
      throw bad_field(where, "weight", std::to_string(traces[i].weight), "a finite number of at least 0");
    const std::int64_t count = tokens_of(traces[i]);
    if (traces[i].first < 0 || count < 1 || count > trace.tokens() - traces[i].first)
      throw bad_field(where, "window of tokens",
                      "first " + std::to_string(traces[i].first) + ", count " + std::to_string(traces[i].count),
                      "at least one token among the trace's " + std::to_string(trace.tokens()));
  }
}

struct NoGates {};

/// One token's choices at one layer, padding left out.
template <class Gate>
struct Choices {
  std::vector<std::uint16_t> experts;
  std::vector<float> gates;
  int size = 0;

  explicit Choices(int k) : experts(static_cast<std::size_t>(k)), gates(static_cast<std::size_t>(k)) {}

  void load(const Trace& trace, std::int64_t token, int layer, int k) {
    const std::size_t begin = (static_cast<std::size_t>(token) * trace.layers() + layer) * trace.top_k;
    size = 0;
    for (int i = 0; i < k; ++i) {
      const std::uint16_t expert = trace.experts[begin + i];
      if (expert == Trace::kNoExpert) continue;
      experts[size] = expert;
      if constexpr (!std::is_same_v<Gate, NoGates>) gates[size] = trace.weights[begin + i];
      ++size;
    }
  }
};

/// Tables of one layer. Counts without gates are whole numbers and stay in 32 bits, so that the tables stay in cache.
template <class Gate>
class LayerCount {
 public:
  using Number = std::conditional_t<std::is_same_v<Gate, NoGates>, std::uint32_t, double>;

  explicit LayerCount(int experts)
      : experts_(static_cast<std::size_t>(experts)),
        load(experts_),
        affinity(experts_ * experts_),
        coactivation(experts_ * experts_) {}

  void add(const Choices<Gate>& here) {
    for (int i = 0; i < here.size; ++i) {
      ++load[here.experts[i]];
      Number* const row = &coactivation[here.experts[i] * experts_];
      for (int j = i + 1; j < here.size; ++j) row[here.experts[j]] += product(here, i, here, j);
    }
  }
  void add_pairs(const Choices<Gate>& here, const Choices<Gate>& next) {
    for (int i = 0; i < here.size; ++i) {
      Number* const row = &affinity[here.experts[i] * experts_];
      for (int j = 0; j < next.size; ++j) row[next.experts[j]] += product(here, i, next, j);
    }
  }

 private:
  static Number product(const Choices<Gate>& a, int i, const Choices<Gate>& b, int j) {
    if constexpr (std::is_same_v<Gate, NoGates>)
      return 1;
    else
      return static_cast<Number>(a.gates[i]) * b.gates[j];
  }

  std::size_t experts_;

 public:
  std::vector<std::uint32_t> load;
  std::vector<Number> affinity;
  std::vector<Number> coactivation;  // (i, j) as the token lists them
};

template <class Gate>
void count_layer(const WeightedTrace& window, int layer, int k, Statistics& all) {
  const Trace& trace = *window.trace;
  const bool has_next = layer + 1 < trace.layers();
  LayerCount<Gate> counted(trace.num_experts);
  Choices<Gate> here(k);
  Choices<Gate> next(k);
  const std::int64_t end = window.first + tokens_of(window);
  for (std::int64_t t = window.first; t < end; ++t) {
    here.load(trace, t, layer, k);
    counted.add(here);
    if (!has_next) continue;
    next.load(trace, t, layer + 1, k);
    counted.add_pairs(here, next);
  }

  const auto n = static_cast<std::size_t>(all.experts);
  double* const load = &all.load[layer * n];
  double* const together = &all.coactivation[layer * n * n];
  for (std::size_t i = 0; i < n; ++i) {
    load[i] += window.weight * counted.load[i];
    for (std::size_t j = 0; j < n; ++j)
      together[i * n + j] += window.weight * (static_cast<double>(counted.coactivation[i * n + j]) +
                                              static_cast<double>(counted.coactivation[j * n + i]));
  }
  if (!has_next) return;
  double* const follows = &all.affinity[layer * n * n];
  for (std::size_t i = 0; i < n * n; ++i) follows[i] += window.weight * static_cast<double>(counted.affinity[i]);
}

}  // namespace

Statistics count(std::span<const WeightedTrace> traces, const CountOptions& options) {
  check(traces, options);
  Statistics all;
  all.layers = traces.front().trace->layers();
  all.experts = traces.front().trace->num_experts;
  const std::size_t pairs = static_cast<std::size_t>(all.experts) * all.experts;
  all.load.resize(static_cast<std::size_t>(all.layers) * all.experts);
  all.affinity.resize((all.layers - 1) * pairs);
  all.coactivation.resize(all.layers * pairs);
  for (const WeightedTrace& t : traces) all.tokens += t.weight * static_cast<double>(tokens_of(t));

  parallel_for(options.threads, static_cast<std::size_t>(all.layers), [&](std::size_t layer) {
    for (const WeightedTrace& t : traces) {
      const int k = choices(*t.trace, options.top);
      const auto of_layer = options.by_gate && !t.trace->weights.empty() ? count_layer<Half> : count_layer<NoGates>;
      of_layer(t, static_cast<int>(layer), k, all);
    }
  });
  return all;
}

}  // namespace coterie
