#include "placement/solvers/baselines.hpp"

namespace coterie {
namespace {

class ContiguousSolver final : public Solver {
 public:
  std::string_view name() const noexcept override { return "contiguous"; }

  Solution solve(const Problem& problem, const SolveOptions&) const override {
    const auto start = std::chrono::steady_clock::now();
    return finished(problem, contiguous_assignment(problem), name(), start);
  }
};

}  // namespace

std::unique_ptr<Solver> make_contiguous_solver() {
  return std::make_unique<ContiguousSolver>();
}

}  // namespace coterie
