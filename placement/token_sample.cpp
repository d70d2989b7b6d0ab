#include "placement/traffic_model.hpp"

#include <algorithm>

namespace coterie {

TokenSample::TokenSample(const Problem& problem, std::int64_t count) {
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

  // (trace, token) of every token of the sample.
  std::vector<std::pair<const Trace*, std::int64_t>> chosen;
  for (const WeightedTrace& part : problem.traces) {
    const double share = part.weight * static_cast<double>(length(part)) / mass;
    const std::int64_t here =
        count >= all ? length(part)
                     : std::min(length(part), static_cast<std::int64_t>(share * static_cast<double>(count)) + 1);
    for (std::int64_t i = 0; i < here; ++i) {
      chosen.emplace_back(part.trace, part.first + i * length(part) / here);
      weight.push_back(static_cast<float>(part.weight * static_cast<double>(length(part)) / static_cast<double>(here)));
    }
  }
  tokens = static_cast<int>(chosen.size());

  const auto cells = static_cast<std::size_t>(layers) * tokens * width;
  experts.assign(cells, static_cast<std::uint16_t>(none));
  if (gated) gates.assign(cells, 0);
  uses.resize(static_cast<std::size_t>(layers) * none);
  for (int t = 0; t < tokens; ++t) {
    const auto& [trace, row] = chosen[t];
    for (int l = 0; l < layers; ++l) {
      const std::size_t from = (static_cast<std::size_t>(row) * layers + l) * trace->top_k;
      const std::size_t to = (static_cast<std::size_t>(l) * tokens + t) * width;
      int filled = 0;
      for (int c = 0; c < std::min(width, trace->top_k); ++c) {
        const std::uint16_t expert = trace->experts[from + c];
        if (expert == Trace::kNoExpert) continue;
        experts[to + filled] = expert;
        if (gated) gates[to + filled] = trace->weights[from + c];
        uses[static_cast<std::size_t>(l) * none + expert].push_back({t, filled++});
      }
    }
  }
}

}  // namespace coterie
