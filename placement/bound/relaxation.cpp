#include "placement/bound/relaxation.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

namespace coterie {

Relaxation empty_relaxation(int layers, int experts, int parts, int capacity) {
  Relaxation made;
  made.layers = layers;
  made.experts = experts;
  made.parts = parts;
  made.capacity = capacity;
  const auto square = static_cast<std::size_t>(made.items()) * made.items();
  made.share.assign(layers, std::vector<Share>(square, Share::maybe));
  made.share_between.assign(square, Share::maybe);
  return made;
}

double replica_gain(std::span<const double> company, int experts, int replicas, int capacity) {
  if (replicas == 0) return 0;
  std::vector<double> gains;
  std::vector<double> row;
  for (int i = 0; i < experts; ++i) {
    const auto weights = company.subspan(static_cast<std::size_t>(i) * experts, experts);
    row.assign(weights.begin(), weights.end());
    std::sort(row.begin(), row.end(), std::greater<>());
    for (int first = 0; first < experts && row[first] > 0; first += capacity) {
      const auto begin = row.begin() + first;
      gains.push_back(std::accumulate(begin, begin + std::min(capacity, experts - first), 0.0));
    }
  }
  const auto best = std::min(gains.size(), static_cast<std::size_t>(replicas));
  std::partial_sort(gains.begin(), gains.begin() + static_cast<std::ptrdiff_t>(best), gains.end(), std::greater<>());
  return std::accumulate(gains.begin(), gains.begin() + static_cast<std::ptrdiff_t>(best), 0.0);
}

}  // namespace coterie
