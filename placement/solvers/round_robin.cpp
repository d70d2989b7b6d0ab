#include "placement/solvers/baselines.hpp"

namespace coterie {
namespace {

class RoundRobinSolver final : public Solver {
 public:
  std::string_view name() const noexcept override { return "round-robin"; }

  Solution solve(const Problem& problem, const SolveOptions&) const override {
    const auto start = std::chrono::steady_clock::now();
    std::vector<int> row(problem.experts());
    int rank = 0;
    for (int& r : row) {
      r = rank++;
      if (rank == problem.ranks()) rank = 0;
    }
    return finished(problem, Assignment(problem.layers(), row), name(), start);
  }
};

}  // namespace

std::unique_ptr<Solver> make_round_robin_solver() {
  return std::make_unique<RoundRobinSolver>();
}

}  // namespace coterie
