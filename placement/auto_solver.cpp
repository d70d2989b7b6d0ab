// Takes the exact solver where it fits, else sweep.
#include "placement/dp_solver.hpp"
#include "placement/solver.hpp"

namespace coterie {
namespace {

class AutoSolver final : public Solver {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "auto"; }

  [[nodiscard]] Solution solve(const Problem& problem, const SolveOptions& options) const override {
    if (why_dp_does_not_fit(problem).empty()) return make_dp_solver()->solve(problem, options);
    return make_sweep_solver()->solve(problem, options);
  }
};

}  // namespace

std::unique_ptr<Solver> make_auto_solver() {
  return std::make_unique<AutoSolver>();
}

}  // namespace coterie
