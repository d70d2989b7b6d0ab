#include "placement/solvers/baselines.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace coterie {
namespace {

/// One layer's experts on ranks of given sizes, by load alone.
class LayerPacking {
 public:
  LayerPacking(std::span<const double> load, int ranks) : load_(load), row_(load.size()), rows_(ranks, 0.0) {}

  /// Largest expert first, to the lightest rank that is not full. Ranks may hold the floor of experts / ranks, and
  /// experts % ranks of them one more: which ones, the loads decide.
  void fill() {
    const int experts = static_cast<int>(load_.size());
    const int ranks = static_cast<int>(rows_.size());
    int larger_left = experts % ranks;
    std::vector<int> held(ranks, 0);
    std::vector<int> order(experts);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return load_[a] > load_[b]; });
    for (const int e : order) {
      int best = -1;
      for (int r = 0; r < ranks; ++r) {
        const bool full = held[r] > experts / ranks || (held[r] == experts / ranks && larger_left == 0);
        if (!full && (best < 0 || rows_[r] < rows_[best])) best = r;
      }
      if (++held[best] > experts / ranks) --larger_left;
      row_[e] = best;
      rows_[best] += load_[e];
    }
  }

  /// Swaps an expert of the heaviest rank with a smaller one elsewhere, each time the pair that leaves the heavier of
  /// the two ranks lightest, until no swap makes that one lighter than the heaviest was.
  void swap_down() {
    while (true) {
      const int heavy = static_cast<int>(std::max_element(rows_.begin(), rows_.end()) - rows_.begin());
      double best = rows_[heavy] * (1 - 1e-12);
      int give = -1;
      int take = -1;
      for (int a = 0; a < static_cast<int>(row_.size()); ++a) {
        if (row_[a] != heavy) continue;
        for (int b = 0; b < static_cast<int>(row_.size()); ++b) {
          if (row_[b] == heavy || load_[b] >= load_[a]) continue;
          const double moved = load_[a] - load_[b];
          const double heavier = std::max(rows_[heavy] - moved, rows_[row_[b]] + moved);
          if (heavier < best) best = heavier, give = a, take = b;
        }
      }
      if (give < 0) return;
      const double moved = load_[give] - load_[take];
      rows_[heavy] -= moved;
      rows_[row_[take]] += moved;
      std::swap(row_[give], row_[take]);
    }
  }

  [[nodiscard]] const std::vector<int>& row() const noexcept { return row_; }

 private:
  std::span<const double> load_;  // (experts)
  std::vector<int> row_;          // (experts) -> rank
  std::vector<double> rows_;      // (ranks): load
};

/// Load alone: nothing of which experts follow one another.
class BalancedSolver final : public Solver {
 public:
  std::string_view name() const noexcept override { return "balanced"; }

  Solution solve(const Problem& problem, const SolveOptions&) const override {
    const auto start = std::chrono::steady_clock::now();
    Assignment assignment;
    for (int l = 0; l < problem.layers(); ++l) {
      LayerPacking layer(problem.statistics.load_at(l), problem.ranks());
      layer.fill();
      layer.swap_down();
      assignment.push_back(layer.row());
    }
    return finished(problem, std::move(assignment), name(), start);
  }
};

}  // namespace

std::unique_ptr<Solver> make_balanced_solver() {
  return std::make_unique<BalancedSolver>();
}

}  // namespace coterie
