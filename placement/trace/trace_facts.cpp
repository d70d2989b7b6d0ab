#include "placement/trace/trace_facts.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace coterie {
namespace {

AffinityStrength strength_of(std::span<const double> pairs, std::size_t experts) {
  std::vector<double> from(experts);
  std::vector<double> to(experts);
  double top = 0;
  for (std::size_t i = 0; i < experts; ++i) {
    const auto row = pairs.subspan(i * experts, experts);
    top += *std::max_element(row.begin(), row.end());
    for (std::size_t j = 0; j < experts; ++j) from[i] += row[j], to[j] += row[j];
  }
  const double total = std::accumulate(from.begin(), from.end(), 0.0);
  if (total <= 0) return {};
  AffinityStrength s{top / total, *std::max_element(to.begin(), to.end()) / total, 0};
  for (std::size_t i = 0; i < experts; ++i)
    for (std::size_t j = 0; j < experts; ++j)
      if (const double w = pairs[i * experts + j]; w > 0)
        s.mutual_information += w / total * std::log2(w * total / (from[i] * to[j]));
  return s;
}

/// Sums of one layer over all pairs of neighbours.
struct Overlap {
  double pairs = 0;
  double shared = 0;          // 2 |both| / (|a| + |b|)
  double chosen = 0;          // |a|
  std::vector<double> times;  // (experts): that an expert was among a
};

}  // namespace

std::vector<AffinityStrength> affinity_strength(const Statistics& statistics) {
  std::vector<AffinityStrength> all;
  if (statistics.affinity.empty()) return all;
  for (int l = 0; l + 1 < statistics.layers; ++l)
    all.push_back(strength_of(statistics.affinity_at(l), static_cast<std::size_t>(statistics.experts)));
  return all;
}

std::vector<LoadSkew> load_skew(const Statistics& statistics) {
  std::vector<LoadSkew> all(static_cast<std::size_t>(statistics.layers));
  for (int l = 0; l < statistics.layers; ++l) {
    const auto load = statistics.load_at(l);
    const double mean = std::accumulate(load.begin(), load.end(), 0.0) / static_cast<double>(load.size());
    const auto [least, most] = std::minmax_element(load.begin(), load.end());
    all[l].idle = static_cast<int>(std::count(load.begin(), load.end(), 0.0));
    if (mean > 0) all[l].heaviest = *most / mean, all[l].lightest = *least / mean;
  }
  return all;
}

std::vector<RoutingConsistency> routing_consistency(const Trace& trace) {
  const auto k = static_cast<std::size_t>(trace.top_k);
  const auto layers = static_cast<std::size_t>(trace.layers());
  std::vector<Overlap> sums(layers);
  for (Overlap& o : sums) o.times.resize(static_cast<std::size_t>(trace.num_experts));
  const auto is_chosen = [](std::uint16_t e) { return e != Trace::kNoExpert; };
  const auto follows = [&](std::size_t t) {
    return !trace.sequence.empty() && trace.sequence[t] == trace.sequence[t - 1] &&
           (trace.position.empty() || trace.position[t] == trace.position[t - 1] + 1);
  };
  for (std::size_t t = 1; t < static_cast<std::size_t>(trace.tokens()); ++t) {
    if (!follows(t)) continue;
    for (std::size_t l = 0; l < layers; ++l) {
      const std::span<const std::uint16_t> now(&trace.experts[(t * layers + l) * k], k);
      const std::span<const std::uint16_t> before(&trace.experts[((t - 1) * layers + l) * k], k);
      const auto size = std::count_if(now.begin(), now.end(), is_chosen);
      const auto both = std::count_if(now.begin(), now.end(), [&](std::uint16_t e) {
        return is_chosen(e) && std::find(before.begin(), before.end(), e) != before.end();
      });
      const auto sizes = size + std::count_if(before.begin(), before.end(), is_chosen);
      Overlap& o = sums[l];
      o.pairs += 1;
      o.chosen += static_cast<double>(size);
      if (sizes > 0) o.shared += 2.0 * static_cast<double>(both) / static_cast<double>(sizes);
      for (const std::uint16_t e : now)
        if (is_chosen(e)) o.times[e] += 1;
    }
  }
  std::vector<RoutingConsistency> all;
  if (sums.empty() || sums.front().pairs == 0) return all;
  for (const Overlap& o : sums) {
    // Two tokens drawn independently share sum of p(e)^2 experts of the sum of p(e) that each has.
    double shared = 0;
    for (const double n : o.times) shared += n * n / o.pairs;
    all.push_back({o.shared / o.pairs, o.chosen > 0 ? shared / o.chosen : 0});
  }
  return all;
}

}  // namespace coterie
