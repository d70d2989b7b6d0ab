#include "placement/bound/levels.hpp"

#include <algorithm>
#include <numeric>

namespace coterie {
namespace {

constexpr int kMostItems = 2048;

int slots_that_matter(const Problem& problem) {
  return problem.replicas > 0 ? problem.slots() : problem.most();
}

bool too_large(const Problem& problem, int items) {
  return items > kMostItems || items > 2 * (problem.experts() + problem.ranks());
}

/// Layers that are given may break the limits that the relaxation knows.
bool fixed_layers_fit(const Problem& problem) {
  for (int l = 0; l < problem.layers(); ++l) {
    if (!problem.is_fixed(l)) continue;
    std::vector<int> held(problem.ranks(), 0);
    for (const int r : problem.fixed[l]) ++held[r];
    const auto [least, most] = std::minmax_element(held.begin(), held.end());
    if (*least < problem.fewest() || *most > problem.most()) return false;
  }
  return true;
}

void share(Relaxation& relaxation, int layer, int i, int j, Share known) {
  const int n = relaxation.items();
  relaxation.share[layer][i * n + j] = relaxation.share[layer][j * n + i] = known;
}

/// `ranks`: of a part. Loads are shares of what the ranks of a part may have together.
void add_loads(Relaxation& relaxation, const Problem& problem, int ranks) {
  if (!problem.balance || problem.replicas > 0) return;
  const int n = relaxation.items();
  relaxation.load.assign(problem.layers(), std::vector<double>(n, 0));
  for (int l = 0; l < problem.layers(); ++l) {
    if (problem.is_fixed(l)) continue;
    const auto load = problem.statistics.load_at(l);
    const double limit = problem.load_limit(l) * ranks;
    if (limit <= 0) continue;
    std::vector<double>& shares = relaxation.load[l];
    for (int e = 0; e < problem.experts(); ++e) shares[e] = load[e] / limit;
    for (int i = 0; i < problem.experts(); ++i)
      for (int j = 0; j < i; ++j)
        if (shares[i] + shares[j] > 1 + 1e-9) share(relaxation, l, i, j, Share::never);
  }
}

}  // namespace

std::optional<Relaxation> rank_relaxation(const Problem& problem) {
  const int capacity = slots_that_matter(problem);
  if (too_large(problem, problem.ranks() * capacity) || !fixed_layers_fit(problem)) return std::nullopt;
  Relaxation made = empty_relaxation(problem.layers(), problem.experts(), problem.ranks(), capacity);
  made.replicas = problem.replicas;
  // Where every rank has at most one empty slot, empty slots never share a rank.
  if (problem.replicas == 0 && capacity - problem.fewest() <= 1)
    for (int l = 0; l < made.layers; ++l)
      for (int i = made.experts; i < made.items(); ++i)
        for (int j = made.experts; j < i; ++j) share(made, l, i, j, Share::never);
  add_loads(made, problem, 1);
  return made;
}

std::optional<Relaxation> node_relaxation(const Problem& problem) {
  const std::vector<int>& nodes = problem.topology.ranks_per_node;
  if (nodes.size() < 2) return std::nullopt;
  const int largest = *std::max_element(nodes.begin(), nodes.end());
  const int capacity = largest * slots_that_matter(problem);
  if (too_large(problem, static_cast<int>(nodes.size()) * capacity) || !fixed_layers_fit(problem)) return std::nullopt;
  Relaxation made = empty_relaxation(problem.layers(), problem.experts(), static_cast<int>(nodes.size()), capacity);
  made.replicas = problem.replicas;
  // A node that is smaller than the largest has empty slots of its own in every layer.
  const int n = made.items();
  std::vector<int> owner(n, -1);
  int next = made.experts;
  for (std::size_t node = 0; node < nodes.size(); ++node)
    for (int s = 0; s < (largest - nodes[node]) * slots_that_matter(problem); ++s)
      owner[next++] = static_cast<int>(node);
  for (int i = made.experts; i < next; ++i)
    for (int j = made.experts; j < next; ++j) {
      const Share known = owner[i] == owner[j] ? Share::always : Share::never;
      made.share_between[i * n + j] = known;
      if (i < j)
        for (int l = 0; l < made.layers; ++l) share(made, l, i, j, known);
    }
  if (std::all_of(nodes.begin(), nodes.end(), [&](int ranks) { return ranks == largest; }))
    add_loads(made, problem, largest);
  return made;
}

std::vector<std::vector<int>> parts_of(const Problem& problem, const Relaxation& relaxation,
                                       const Assignment& assignment) {
  const bool ranks = relaxation.parts == problem.ranks();
  const std::vector<int> node = problem.topology.node_of_rank();
  std::vector<std::vector<int>> parts;
  for (const std::vector<int>& layer : assignment) {
    std::vector<int>& part = parts.emplace_back(relaxation.items());
    std::vector<int> left(relaxation.parts, relaxation.capacity);
    for (int e = 0; e < relaxation.experts; ++e) {
      part[e] = ranks ? layer[e] : node[layer[e]];
      if (--left[part[e]] < 0) return {};
    }
    // The slots that small nodes lack come first, node by node, and so do they here where no others are empty.
    int next = relaxation.experts;
    for (int p = 0; p < relaxation.parts; ++p)
      for (; left[p] > 0; --left[p]) part[next++] = p;
  }
  return parts;
}

}  // namespace coterie
