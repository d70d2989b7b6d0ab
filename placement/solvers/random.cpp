#include "placement/solvers/baselines.hpp"

#include <algorithm>
#include <random>

namespace coterie {
namespace {

constexpr int kShuffles = 1000;

/// Rows of the heaviest rank.
double heaviest_rank(std::span<const double> load, const std::vector<int>& row) {
  std::vector<double> rows(*std::max_element(row.begin(), row.end()) + 1, 0.0);
  for (std::size_t e = 0; e < row.size(); ++e) rows[row[e]] += load[e];
  return *std::max_element(rows.begin(), rows.end());
}

/// Each layer shuffled by the seed; a layer that breaks the load limit is shuffled again, up to kShuffles times.
class RandomSolver final : public Solver {
 public:
  std::string_view name() const noexcept override { return "random"; }

  Solution solve(const Problem& problem, const SolveOptions& options) const override {
    const auto start = std::chrono::steady_clock::now();
    std::mt19937_64 random(options.seed);
    std::vector<int> row;
    const auto counts = even_counts(problem.experts(), problem.ranks());
    for (int r = 0; r < problem.ranks(); ++r) row.insert(row.end(), counts[r], r);

    Assignment assignment;
    for (int l = 0; l < problem.layers(); ++l) {
      int shuffles = 0;
      do {
        std::shuffle(row.begin(), row.end(), random);
      } while (++shuffles < kShuffles && heaviest_rank(problem.statistics.load_at(l), row) > problem.load_limit(l));
      assignment.push_back(row);
    }
    return finished(problem, std::move(assignment), name(), start);
  }
};

}  // namespace

std::unique_ptr<Solver> make_random_solver() {
  return std::make_unique<RandomSolver>();
}

}  // namespace coterie
