// Random traces and problems for tests, with statistics counted by plain loops.
#pragma once

#include "placement/problem.hpp"

#include <memory>
#include <random>
#include <set>
#include <utility>

namespace coterie {

struct TraceShape {
  int tokens = 400;
  int layers = 4;
  int experts = 12;
  int top_k = 2;
  bool weights = false;
};

/// Tokens follow a hidden topic, so that experts follow one another; some choose fewer than top_k experts.
inline Trace random_trace(const TraceShape& shape, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<std::uint64_t>(n)); };
  Trace trace;
  trace.model = "random";
  trace.num_experts = shape.experts;
  trace.top_k = shape.top_k;
  for (int l = 0; l < shape.layers; ++l) trace.layer_ids.push_back(l + 1);
  for (int t = 0; t < shape.tokens; ++t) {
    const int topic = below(shape.experts);
    for (int l = 0; l < shape.layers; ++l) {
      std::set<int> chosen;
      float weight = 0.9F;
      for (int c = 0; c < shape.top_k; ++c) {
        int expert = (topic * (l + 1) + below(3)) % shape.experts;
        if (below(4) == 0) expert = below(shape.experts);
        const bool taken = !chosen.insert(expert).second || below(20) == 0;
        trace.experts.push_back(taken ? Trace::kNoExpert : static_cast<std::uint16_t>(expert));
        if (shape.weights) trace.weights.emplace_back(taken ? 0.0F : weight);
        weight *= 0.6F;
      }
    }
  }
  return trace;
}

/// Every choice counts 1.
inline Statistics plain_statistics(const Trace& trace) {
  Statistics s;
  s.layers = trace.layers();
  s.experts = trace.num_experts;
  s.tokens = static_cast<double>(trace.tokens());
  const auto n = static_cast<std::size_t>(s.experts);
  s.load.assign(s.layers * n, 0);
  s.affinity.assign((s.layers - 1) * n * n, 0);
  s.coactivation.assign(s.layers * n * n, 0);
  const auto choice = [&](std::int64_t t, int l, int c) -> std::size_t {
    return trace.experts[(static_cast<std::size_t>(t) * s.layers + l) * trace.top_k + c];
  };
  for (std::int64_t t = 0; t < trace.tokens(); ++t) {
    for (int l = 0; l < s.layers; ++l) {
      for (int c = 0; c < trace.top_k; ++c) {
        const std::size_t i = choice(t, l, c);
        if (i == Trace::kNoExpert) continue;
        ++s.load[l * n + i];
        for (int d = 0; d < trace.top_k; ++d) {
          const std::size_t same = choice(t, l, d);
          if (same != Trace::kNoExpert && same != i) ++s.coactivation[(l * n + i) * n + same];
          if (l + 1 == s.layers) continue;
          const std::size_t next = choice(t, l + 1, d);
          if (next != Trace::kNoExpert) ++s.affinity[(l * n + i) * n + next];
        }
      }
    }
  }
  return s;
}

/// A problem that owns its trace.
struct RandomProblem {
  std::unique_ptr<Trace> trace;
  Problem problem;
};

/// Traffic, domain world, no load limit.
inline RandomProblem random_problem(const TraceShape& shape, Topology topology, std::uint64_t seed) {
  RandomProblem made{std::make_unique<Trace>(random_trace(shape, seed)), {}};
  made.problem.topology = std::move(topology);
  made.problem.balance.reset();
  made.problem.statistics = plain_statistics(*made.trace);
  made.problem.traces = {{made.trace.get(), 1, 0, -1}};
  return made;
}

/// Every expert on one rank, and `replicas` further copies a layer.
inline Owners random_owners(const Problem& problem, int replicas, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Owners owners(problem.layers(), std::vector<std::vector<int>>(problem.experts()));
  for (auto& layer : owners) {
    for (int i = 0; i < problem.experts() + replicas; ++i) {
      auto& ranks = layer[i < problem.experts() ? i : random() % layer.size()];
      const int rank = static_cast<int>(random() % static_cast<std::uint64_t>(problem.ranks()));
      std::set<int> with(ranks.begin(), ranks.end());
      with.insert(rank);
      ranks.assign(with.begin(), with.end());
    }
  }
  return owners;
}

}  // namespace coterie
