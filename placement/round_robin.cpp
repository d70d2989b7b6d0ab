#include "placement/baselines.hpp"

namespace coterie {
namespace {

class RoundRobinSolver final : public Solver {
 public:
  std::string_view name() const noexcept override { return "round-robin"; }

  Solution solve(const Problem& problem, const SolveOptions&) const override {
    const auto start = std::chrono::steady_clock::now();
    std::vector<int> row(problem.experts());
    for (int e = 0; e < problem.experts(); ++e) row[e] = e % problem.ranks();
    return finished(problem, Assignment(problem.layers(), row), name(), start);
  }
};

}  // namespace

std::unique_ptr<Solver> make_round_robin_solver() {
  return std::make_unique<RoundRobinSolver>();
}

}  // namespace coterie
