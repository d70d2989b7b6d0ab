#include "placement/solvers/baselines.hpp"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <random>
#include <utility>

namespace coterie {
namespace {

constexpr int kStarts = 8;

/// A layer's experts within a range of ranks, and how many of them go to the first half.
struct Part {
  std::vector<int> members;
  int first = 0;
  bool fixed = false;  ///< the first half's members come first and stay there
};
/// (layers, members): +1 for the first half of the ranks, -1 for the second.
using Sides = std::vector<std::vector<double>>;

/// Splits each layer's members in two so that the affinity inside the halves is largest. With the sides x, y of
/// neighbouring layers and their affinity W, twice the weight that stays is sum(W) + x'Wy.
class Halving {
 public:
  Halving(const Statistics& statistics, const std::vector<Part>& parts) : parts_(parts) {
    for (std::size_t l = 0; l + 1 < parts.size(); ++l) {
      const auto affinity = statistics.affinity_at(static_cast<int>(l));
      auto& w = affinity_.emplace_back();
      for (const int i : parts[l].members) {
        for (const int j : parts[l + 1].members)
          w.push_back(affinity[static_cast<std::size_t>(i) * statistics.experts + j]);
      }
    }
    can_flip_ = std::all_of(parts.begin(), parts.end(), [](const Part& p) {
      return !p.fixed && 2 * p.first == static_cast<int>(p.members.size());
    });
  }

  [[nodiscard]] Sides random_sides(std::mt19937_64& random) const {
    Sides x;
    for (const Part& part : parts_) {
      auto& sides = x.emplace_back(part.members.size(), -1.0);
      std::fill_n(sides.begin(), part.first, 1.0);
      if (!part.fixed) std::shuffle(sides.begin(), sides.end(), random);
    }
    return x;
  }

  /// Solves layer after layer, forth and back, until nothing changes.
  void descend(Sides& x) const {
    for (bool changed = true; changed;) {
      changed = false;
      for (std::size_t l = 0; l < x.size(); ++l) changed |= solve_layer(x, l);
      for (std::size_t l = x.size() - 1; l-- > 0;) changed |= solve_layer(x, l);
      if (can_flip_) changed |= flip_at_walls(x);
    }
  }

  /// x'Wy summed over the pairs of layers.
  [[nodiscard]] double value(const Sides& x) const {
    double sum = 0;
    for (std::size_t l = 0; l + 1 < x.size(); ++l) sum += coupling(x, l);
    return sum;
  }

 private:
  /// Given its neighbours, a layer is best with the members of the largest pull in the first half.
  bool solve_layer(Sides& x, std::size_t l) const {
    const std::size_t size = x[l].size();
    if (parts_[l].fixed || size == 0) return false;
    std::vector<double> pull(size, 0.0);
    if (l > 0) {
      for (std::size_t i = 0; i < x[l - 1].size(); ++i) {
        const double* w = &affinity_[l - 1][i * size];
        for (std::size_t j = 0; j < size; ++j) pull[j] += x[l - 1][i] * w[j];
      }
    }
    if (l + 1 < x.size() && !x[l + 1].empty()) {
      for (std::size_t i = 0; i < size; ++i) {
        pull[i] += std::inner_product(x[l + 1].begin(), x[l + 1].end(), &affinity_[l][i * x[l + 1].size()], 0.0);
      }
    }
    std::vector<int> order(size);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return pull[a] > pull[b]; });
    std::vector<double> sides(size, -1.0);
    for (int i = 0; i < parts_[l].first; ++i) sides[order[i]] = 1.0;

    double gain = 0;
    double scale = 0;
    for (std::size_t i = 0; i < size; ++i) {
      gain += pull[i] * (sides[i] - x[l][i]);
      scale += std::abs(pull[i]);
    }
    if (gain <= 1e-9 * scale) return false;
    x[l] = std::move(sides);
    return true;
  }

  /// Halves of one size may change names from a layer on: done wherever neighbours agree better that way.
  bool flip_at_walls(Sides& x) const {
    bool changed = false;
    for (std::size_t l = 0; l + 1 < x.size(); ++l) {
      if (coupling(x, l) >= 0) continue;
      for (double& side : x[l + 1]) side = -side;
      // That turned the sign of the next pair, which the loop comes to next.
      changed = true;
    }
    return changed;
  }

  [[nodiscard]] double coupling(const Sides& x, std::size_t l) const {
    const std::size_t width = x[l + 1].size();
    double sum = 0;
    for (std::size_t i = 0; i < x[l].size() && width > 0; ++i) {
      sum += x[l][i] * std::inner_product(x[l + 1].begin(), x[l + 1].end(), &affinity_[l][i * width], 0.0);
    }
    return sum;
  }

  const std::vector<Part>& parts_;
  std::vector<std::vector<double>> affinity_;  // (layers - 1, members, members of the next layer)
  bool can_flip_ = false;
};

/// One run of the recursion: what it has decided so far.
class Bipartition {
 public:
  Bipartition(const Problem& problem, const SolveOptions& options)
      : problem_(problem),
        options_(options),
        counts_(even_counts(problem.experts(), problem.ranks())),
        deadline_(std::chrono::steady_clock::now() + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                                         std::chrono::duration<double>(options.time_limit))),
        assignment_(problem.layers(), std::vector<int>(problem.experts())) {
    std::vector<int> all(problem.experts());
    std::iota(all.begin(), all.end(), 0);
    split(0, problem.ranks(), std::vector(problem.layers(), all));
  }

  [[nodiscard]] Assignment&& take() { return std::move(assignment_); }

 private:
  /// Gives `members` (layers, members) to the ranks [begin, end).
  void split(int begin, int end, std::vector<std::vector<int>> members) {
    if (end - begin == 1) {
      for (std::size_t l = 0; l < members.size(); ++l) {
        for (const int e : members[l]) assignment_[l][e] = begin;
      }
      return;
    }
    const int middle = halfway(begin, end);
    const int first = std::accumulate(counts_.begin() + begin, counts_.begin() + middle, 0);
    std::vector<Part> parts;
    for (int l = 0; l < problem_.layers(); ++l) {
      Part part{std::move(members[l]), first};
      if (problem_.is_fixed(l)) {
        const auto in_first = [&](int e) { return problem_.fixed[l][e] < middle; };
        part.first = static_cast<int>(std::stable_partition(part.members.begin(), part.members.end(), in_first) -
                                      part.members.begin());
        part.fixed = true;
      }
      parts.push_back(std::move(part));
    }
    const Sides x = best_sides(Halving(problem_.statistics, parts));
    std::vector<std::vector<int>> left(parts.size());
    std::vector<std::vector<int>> right(parts.size());
    for (std::size_t l = 0; l < parts.size(); ++l) {
      for (std::size_t i = 0; i < x[l].size(); ++i) (x[l][i] > 0 ? left : right)[l].push_back(parts[l].members[i]);
    }
    split(begin, middle, std::move(left));
    split(middle, end, std::move(right));
  }

  /// The border between nodes that is nearest to the middle; inside a node the middle.
  [[nodiscard]] int halfway(int begin, int end) const {
    int best = (begin + end) / 2;
    int distance = end - begin;
    int border = 0;
    for (const int ranks : problem_.topology.ranks_per_node) {
      border += ranks;
      if (border <= begin || border >= end || std::abs(2 * border - begin - end) >= distance) continue;
      distance = std::abs(2 * border - begin - end);
      best = border;
    }
    return best;
  }

  [[nodiscard]] Sides best_sides(const Halving& halving) const {
    std::mt19937_64 random(options_.seed);
    Sides best;
    double best_value = 0;
    for (int start = 0; start < kStarts; ++start) {
      Sides x = halving.random_sides(random);
      halving.descend(x);
      const double value = halving.value(x);
      if (best.empty() || value > best_value) best = std::move(x), best_value = value;
      if ((options_.stop && *options_.stop) || std::chrono::steady_clock::now() > deadline_) break;
    }
    return best;
  }

  const Problem& problem_;
  const SolveOptions& options_;
  std::vector<int> counts_;  // (ranks): experts of a layer
  std::chrono::steady_clock::time_point deadline_;
  Assignment assignment_;
};

/// Recursive halving of the ranks (ExFlow): nodes first, then ranks. Each halving solves the layers one at a time given
/// their neighbours, exactly, from several starts.
class BipartitionSolver final : public Solver {
 public:
  std::string_view name() const noexcept override { return "bipartition"; }

  Solution solve(const Problem& problem, const SolveOptions& options) const override {
    const auto start = std::chrono::steady_clock::now();
    return finished(problem, Bipartition(problem, options).take(), name(), start);
  }
};

}  // namespace

std::unique_ptr<Solver> make_bipartition_solver() {
  return std::make_unique<BipartitionSolver>();
}

}  // namespace coterie
