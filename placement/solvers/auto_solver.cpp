// Takes the exact solver where it fits, else sweep; small affinity problems then have windows of layers proven best by
// the integer program, where the build has it.
#include "placement/bound/bound.hpp"
#include "placement/input_error.hpp"
#include "placement/solvers/baselines.hpp"
#include "placement/solvers/dp_solver.hpp"
#include "placement/solvers/solver.hpp"

#include <algorithm>

namespace coterie {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kWindow = 3;           // layers, beside the two that hold their neighbours
constexpr int kSmall = 128;          // experts x ranks, up to which such a window is solved in seconds
constexpr double kBoundShare = 0.1;  // of the time, to see whether they are needed

std::unique_ptr<Solver> integer_program() {
  try {
    return make_ilp_solver();
  } catch (const InputError&) {  // this build has none
    return nullptr;
  }
}

/// Every window of layers as good as it can be between its neighbours, from left to right, while it helps.
Solution improved(const Problem& problem, Solution best, const Solver& ilp, const SolveOptions& options,
                  Clock::time_point begin) {
  const auto left = [&] { return options.time_limit - std::chrono::duration<double>(Clock::now() - begin).count(); };
  const int layers = problem.layers();
  for (bool any = true; any;) {
    any = false;
    for (int first = 0; first < std::max(1, layers - kWindow + 1); ++first) {
      if (left() <= 0 || (options.stop && *options.stop)) return best;
      const int from = std::max(0, first - 1), to = std::min(layers, first + kWindow + 1);
      Problem window = window_of(problem, from, to - from);
      window.fixed.resize(to - from);
      for (int l = from; l < to; ++l)
        if (l < first || l >= first + kWindow || problem.is_fixed(l)) window.fixed[l - from] = best.assignment[l];
      SolveOptions part = options;
      part.time_limit = left();
      part.gap = 0;
      part.start = Assignment(best.assignment.begin() + from, best.assignment.begin() + to);
      const Solution solved = ilp.solve(window, part);
      Assignment assignment = best.assignment;
      std::copy(solved.assignment.begin(), solved.assignment.end(), assignment.begin() + from);
      Solution candidate = finished(problem, std::move(assignment), "sweep+ilp", begin);
      if (!better(problem.objective, candidate.value, best.value * (1 + 1e-12))) continue;
      best = std::move(candidate);
      any = true;
    }
  }
  return best;
}

class AutoSolver final : public Solver {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "auto"; }

  [[nodiscard]] Solution solve(const Problem& problem, const SolveOptions& options) const override {
    const auto begin = Clock::now();
    if (why_dp_does_not_fit(problem).empty()) return make_dp_solver()->solve(problem, options);
    const bool windows = problem.objective == Objective::affinity && problem.replicas == 0 && problem.layers() > 1 &&
                         problem.experts() * problem.ranks() <= kSmall;
    const auto ilp = windows ? integer_program() : nullptr;
    Solution best = make_sweep_solver()->solve(problem, options);
    // Only a search that came to its end: where the windows start then doesn't depend on the time, and more of it makes
    // nothing worse.
    if (ilp && !best.interrupted && best.seconds < options.time_limit) {
      const Bound bound = prove_bound(problem, best.value,
                                      {.time_limit = kBoundShare * options.time_limit,
                                       .gap = options.gap,
                                       .threads = options.threads,
                                       .stop = options.stop,
                                       .progress = options.progress});
      if (bound.value - best.value > options.gap * best.value)
        best = improved(problem, std::move(best), *ilp, options, begin);
      best.bound = bound;
    }
    best.interrupted = options.stop && *options.stop;
    return best;
  }
};

}  // namespace

std::unique_ptr<Solver> make_auto_solver() {
  return std::make_unique<AutoSolver>();
}

}  // namespace coterie
