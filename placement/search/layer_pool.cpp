#include "placement/search/layer_pool.hpp"

#include "placement/parallel.hpp"
#include "placement/search/label_matching.hpp"

#include <algorithm>
#include <limits>
#include <map>

namespace coterie {
namespace {

using State = std::vector<int>;  // (experts): rank

/// Names ranks in the order in which they appear, node by node, so that equal states compare equal.
class Canonical {
 public:
  explicit Canonical(const Topology& topology) : node_(topology.node_of_rank()), size_(topology.ranks_per_node) {
    for (int n = 0, r = 0; n < topology.nodes(); r += size_[n++]) first_.push_back(r);
  }

  [[nodiscard]] State operator()(const State& state) const {
    std::map<int, int> node_name, rank_name;
    std::vector<int> used(size_.size(), 0);
    std::vector<bool> taken(size_.size(), false);
    State result;
    for (const int rank : state) {
      const int node = node_[rank];
      if (!node_name.contains(node)) {
        std::size_t free = 0;
        while (taken[free] || size_[free] != size_[node]) ++free;
        taken[free] = true;
        node_name[node] = static_cast<int>(free);
      }
      const int target = node_name[node];
      if (!rank_name.contains(rank)) rank_name[rank] = first_[target] + used[target]++;
      result.push_back(rank_name[rank]);
    }
    return result;
  }

 private:
  std::vector<int> node_, size_, first_;
};

}  // namespace

Assignment best_of_pool(const Problem& problem, const ChainCost& cost, const std::vector<Assignment>& placements,
                        int threads, const std::function<bool()>& stop) {
  const int layers = problem.layers();
  const Canonical canonical(problem.topology);
  std::vector<std::vector<State>> pool(layers);
  for (int l = 0; l < layers; ++l) {
    for (const Assignment& placement : placements) pool[l].push_back(canonical(placement[l]));
    std::sort(pool[l].begin(), pool[l].end());
    pool[l].erase(std::unique(pool[l].begin(), pool[l].end()), pool[l].end());
  }

  // own[l][s], and crossing[l][s * states of l + 1 + t] from state s of layer l to state t of the next.
  const Kept price{.same_rank = 0, .same_node = -problem.prices.inside_node, .apart = -problem.prices.between_nodes};
  std::vector<std::vector<double>> own(layers), crossing(layers);
  parallel_for(threads, layers, [&](std::size_t l) {
    const int layer = static_cast<int>(l);
    if (stop()) return;
    for (const State& state : pool[l]) own[l].push_back(cost.own(layer, state));
    if (layer + 1 == layers) return;
    LabelMatching names(problem.topology, price);
    for (const auto& flow : cost.flows(layer, pool[l], pool[l + 1])) crossing[l].push_back(-names.best(flow));
  });

  if (stop()) return {};

  std::vector<std::vector<std::size_t>> before(layers);
  std::vector<double> total = own[0];
  for (int l = 1; l < layers; ++l) {
    std::vector<double> reached(pool[l].size(), std::numeric_limits<double>::infinity());
    before[l].assign(pool[l].size(), 0);
    for (std::size_t t = 0; t < reached.size(); ++t)
      for (std::size_t s = 0; s < total.size(); ++s) {
        const double sum = total[s] + crossing[l - 1][s * reached.size() + t] + own[l][t];
        if (sum < reached[t]) {
          reached[t] = sum;
          before[l][t] = s;
        }
      }
    total = std::move(reached);
  }

  std::vector<std::size_t> path(layers);
  path[layers - 1] = static_cast<std::size_t>(std::min_element(total.begin(), total.end()) - total.begin());
  for (int l = layers - 1; l > 0; --l) path[l - 1] = before[l][path[l]];
  LabelMatching names(problem.topology, price);
  Assignment best{pool[0][path[0]]};
  for (int l = 1; l < layers; ++l) {
    State next = pool[l][path[l]];
    const std::vector<int> name =
        names.names(cost.flows(l - 1, std::span(&best.back(), 1), std::span(&next, 1)).front());
    for (int& rank : next) rank = name[rank];
    best.push_back(std::move(next));
  }
  return best;
}

}  // namespace coterie
