#include "placement/search/traffic_model.hpp"

#include <algorithm>

namespace coterie {

TokenSample::TokenSample(const Problem& problem, std::int64_t count, double phase) {
  const int layers = problem.layers();
  const int none = problem.experts();
  std::int64_t all = 0;
  double mass = 0;
  const auto length = [](const WeightedTrace& part) {
    const std::int64_t rest = part.trace->tokens() - part.first;
    return part.count < 0 ? rest : std::min(rest, part.count);
  };
  bool gated = true;
  for (const WeightedTrace& part : problem.traces) {
    all += length(part);
    mass += part.weight * static_cast<double>(length(part));
    width = std::max(width, problem.top > 0 ? std::min(problem.top, part.trace->top_k) : part.trace->top_k);
    gated = gated && !part.trace->weights.empty();
  }

  // (trace, token) of every token of the sample: even steps through the weight of all parts, one after another.
  std::vector<std::pair<const Trace*, std::int64_t>> chosen;
  const double step = count >= all ? 0 : mass / static_cast<double>(count);
  double next = step * phase;
  double passed = 0;
  for (const WeightedTrace& part : problem.traces) {
    const std::int64_t rows = length(part);
    if (step == 0) {
      for (std::int64_t t = 0; t < rows; ++t) {
        chosen.emplace_back(part.trace, part.first + t);
        weight.push_back(static_cast<float>(part.weight));
      }
      continue;
    }
    const double end = passed + part.weight * static_cast<double>(rows);
    for (; next < end; next += step) {
      const auto t = static_cast<std::int64_t>((next - passed) / part.weight);
      chosen.emplace_back(part.trace, part.first + std::min(t, rows - 1));
      weight.push_back(static_cast<float>(step));
    }
    passed = end;
  }
  tokens = static_cast<int>(chosen.size());

  const auto cells = static_cast<std::size_t>(layers) * tokens * width;
  experts.assign(cells, static_cast<std::uint16_t>(none));
  if (gated) gates.assign(cells, 0);
  uses.resize(static_cast<std::size_t>(layers) * none);
  for (int t = 0; t < tokens; ++t) {
    const auto& [trace, place] = chosen[t];
    row.push_back(place);
    for (int l = 0; l < layers; ++l) {
      const std::size_t from = (static_cast<std::size_t>(place) * layers + l) * trace->top_k;
      const std::size_t to = (static_cast<std::size_t>(l) * tokens + t) * width;
      int filled = 0;
      for (int c = 0; c < std::min(width, trace->top_k); ++c) {
        const std::uint16_t expert = trace->experts[from + c];
        if (expert == Trace::kNoExpert) continue;
        experts[to + filled] = expert;
        if (gated) gates[to + filled] = trace->weights[from + c];
        ++filled;
        std::vector<std::int32_t>& tokens_of = uses[static_cast<std::size_t>(l) * none + expert];
        if (tokens_of.empty() || tokens_of.back() != t) tokens_of.push_back(t);
      }
    }
  }
}

}  // namespace coterie
