#include "placement/solvers/eplb.hpp"

#include "placement/input_error.hpp"
#include "placement/plan.hpp"
#include "placement/solvers/baselines.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace coterie {
namespace {

/// Indices of `weights`, heaviest first.
std::vector<int> by_weight(std::span<const double> weights) {
  std::vector<int> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return weights[a] > weights[b]; });
  return order;
}

/// (bins, weights.size() / bins): items dealt heaviest first, each to the lightest bin that has room.
std::vector<std::vector<int>> pack_evenly(std::span<const double> weights, int bins) {
  const std::size_t room = weights.size() / bins;
  std::vector<std::vector<int>> packed(bins);
  std::vector<double> sums(bins, 0.0);
  for (const int item : by_weight(weights)) {
    int best = -1;
    for (int b = 0; b < bins; ++b) {
      if (packed[b].size() < room && (best < 0 || sums[b] < sums[best])) best = b;
    }
    packed[best].push_back(item);
    sums[best] += weights[item];
  }
  return packed;
}

/// (experts): copies of each, at most one a rank; every replica to the expert with the most load a copy.
std::vector<int> count_copies(std::span<const double> load, int replicas, int ranks) {
  std::vector<int> copies(load.size(), 1);
  for (; replicas > 0; --replicas) {
    int best = -1;
    for (int e = 0; e < static_cast<int>(load.size()); ++e) {
      if (copies[e] < ranks && (best < 0 || load[e] * copies[best] > load[best] * copies[e])) best = e;
    }
    if (best < 0) break;  // every rank has every expert
    ++copies[best];
  }
  return copies;
}

/// Some ranks while `copies` of experts are dealt to them evenly: copies % ranks of them, as the loads decide, get one
/// more.
class Ranks {
 public:
  Ranks(int ranks, int copies)
      : fewest_(copies / ranks), larger_left_(copies % ranks), held_(ranks), sums_(ranks, 0.0) {}

  /// Adds a copy of `expert` to the lightest rank with room that lacks it. Where all ranks with room have it, a rank
  /// without room takes it and hands over an expert in exchange.
  void add(int expert, double load) {
    if (const int r = lightest([&](int rank) { return has_room(rank) && !holds(rank, expert); }); r >= 0) {
      put(r, expert, load);
      return;
    }
    const int open = lightest([&](int rank) { return has_room(rank); });
    const int full = lightest([&](int rank) { return !holds(rank, expert); });
    if (open < 0 || full < 0) return;
    const auto handed = std::find_if(held_[full].rbegin(), held_[full].rend(),
                                     [&](const Copy& copy) { return !holds(open, copy.expert); });
    if (handed == held_[full].rend()) return;
    const Copy moved = *handed;
    if (static_cast<int>(held_[full].size()) > fewest_) ++larger_left_;
    held_[full].erase(std::next(handed).base());
    sums_[full] -= moved.load;
    put(open, moved.expert, moved.load);
    put(full, expert, load);
  }

  /// (count): the experts of a rank, ascending, then empty slots.
  [[nodiscard]] std::vector<int> slots(int rank, int count) const {
    std::vector<int> experts;
    for (const Copy& copy : held_[rank]) experts.push_back(copy.expert);
    std::sort(experts.begin(), experts.end());
    experts.resize(count, Plan::kEmptySlot);
    return experts;
  }

 private:
  struct Copy {
    int expert;
    double load;
  };

  [[nodiscard]] bool has_room(int rank) const {
    const int held = static_cast<int>(held_[rank].size());
    return held < fewest_ || (held == fewest_ && larger_left_ > 0);
  }
  [[nodiscard]] bool holds(int rank, int expert) const {
    return std::any_of(held_[rank].begin(), held_[rank].end(), [&](const Copy& copy) { return copy.expert == expert; });
  }
  template <typename Allowed>
  [[nodiscard]] int lightest(const Allowed& allowed) const {
    int best = -1;
    for (int r = 0; r < static_cast<int>(held_.size()); ++r) {
      if (allowed(r) && (best < 0 || sums_[r] < sums_[best])) best = r;
    }
    return best;
  }
  void put(int rank, int expert, double load) {
    held_[rank].push_back({expert, load});
    if (static_cast<int>(held_[rank].size()) > fewest_) --larger_left_;
    sums_[rank] += load;
  }

  int fewest_;
  int larger_left_;
  std::vector<std::vector<Copy>> held_;  // (ranks, at most slots)
  std::vector<double> sums_;             // (ranks): load
};

struct Node {
  int ranks = 0;
  int slots_per_rank = 0;
  int replicas = 0;
};

/// Replicates `experts` and packs the copies onto the node's ranks, whose slots are appended to `layer`.
void fill_node(const Node& node, std::span<const double> load, const std::vector<int>& experts,
               std::vector<int>& layer) {
  std::vector<double> loads(experts.size());
  for (std::size_t i = 0; i < experts.size(); ++i) loads[i] = load[experts[i]];
  const auto copies = count_copies(loads, node.replicas, node.ranks);
  std::vector<double> per_copy(loads.size());
  for (std::size_t i = 0; i < loads.size(); ++i) per_copy[i] = loads[i] / copies[i];

  Ranks ranks(node.ranks, std::accumulate(copies.begin(), copies.end(), 0));
  for (const int i : by_weight(per_copy)) {
    for (int c = 0; c < copies[i]; ++c) ranks.add(experts[i], per_copy[i]);
  }
  for (int r = 0; r < node.ranks; ++r) {
    const auto slots = ranks.slots(r, node.slots_per_rank);
    layer.insert(layer.end(), slots.begin(), slots.end());
  }
}

bool hierarchical(const EplbShape& shape, int experts) {
  const auto& nodes = shape.topology.ranks_per_node;
  return std::all_of(nodes.begin(), nodes.end(), [&](int ranks) { return ranks == nodes.front(); }) &&
         shape.groups % shape.topology.nodes() == 0 && experts % shape.groups == 0;
}

class EplbSolver final : public Solver {
 public:
  std::string_view name() const noexcept override { return "eplb"; }

  Solution solve(const Problem& problem, const SolveOptions& options) const override {
    const auto start = std::chrono::steady_clock::now();
    if (const std::string broken = check_feasible(problem); !broken.empty()) {
      throw InputError(broken + " (solver eplb)");
    }
    const EplbShape shape{problem.topology, problem.slots(), problem.replicas, options.groups};
    Owners owners;
    for (int l = 0; l < problem.layers(); ++l) {
      auto& layer = owners.emplace_back(problem.experts());
      const auto slots = eplb_layer(problem.statistics.load_at(l), shape);
      for (std::size_t s = 0; s < slots.size(); ++s) {
        if (slots[s] != Plan::kEmptySlot) layer[slots[s]].push_back(static_cast<int>(s) / shape.slots_per_rank);
      }
    }
    return finished(problem, std::move(owners), name(), start);
  }
};

}  // namespace

std::unique_ptr<Solver> make_eplb_solver() {
  return std::make_unique<EplbSolver>();
}

std::vector<int> eplb_layer(std::span<const double> load, const EplbShape& shape) {
  const int experts = static_cast<int>(load.size());
  std::vector<int> layer;
  if (!hierarchical(shape, experts)) {
    std::vector<int> all(experts);
    std::iota(all.begin(), all.end(), 0);
    fill_node({shape.topology.ranks(), shape.slots_per_rank, shape.replicas}, load, all, layer);
    return layer;
  }
  const int group_size = experts / shape.groups;
  std::vector<double> group_loads(shape.groups, 0.0);
  for (int e = 0; e < experts; ++e) group_loads[e / group_size] += load[e];
  const auto groups_of_node = pack_evenly(group_loads, shape.topology.nodes());
  for (int n = 0; n < shape.topology.nodes(); ++n) {
    std::vector<int> members;
    for (const int g : groups_of_node[n]) {
      for (int e = g * group_size; e < (g + 1) * group_size; ++e) members.push_back(e);
    }
    const int replicas = shape.replicas / shape.topology.nodes() + (n < shape.replicas % shape.topology.nodes());
    fill_node({shape.topology.ranks_per_node[n], shape.slots_per_rank, replicas}, load, members, layer);
  }
  return layer;
}

}  // namespace coterie
