#include "placement/baselines.hpp"
#include "placement/lightest.hpp"
#include "placement/parallel.hpp"
#include "placement/solver.hpp"
#include "placement/sweep.hpp"

#include <algorithm>

namespace coterie {
namespace {

// The load objective: layers have nothing to do with each other.
Assignment lightest(const Problem& problem, const SolveOptions& options, Assignment assignment,
                    std::chrono::steady_clock::time_point end) {
  constexpr int kRounds = 5;
  int kicks = 100;
  for (int round = 0; round < kRounds; ++round, kicks *= 4)
    parallel_for(options.threads, problem.layers(), [&](std::size_t l) {
      const int layer = static_cast<int>(l);
      if (problem.is_fixed(layer) || std::chrono::steady_clock::now() >= end || (options.stop && *options.stop)) return;
      SplitMix random(options.seed + static_cast<std::uint64_t>(round) * 1'000'003 + l);
      const auto load = problem.statistics.load_at(layer);
      std::vector<int> state =
          lightest_layer(load, problem.ranks(), problem.fewest(), problem.most(), kicks, 0, random);
      if (heaviest_rank(load, state, problem.ranks()) < heaviest_rank(load, assignment[l], problem.ranks()))
        assignment[l] = std::move(state);
    });
  return assignment;
}

class SweepSolver final : public Solver {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "sweep"; }

  [[nodiscard]] Solution solve(const Problem& problem, const SolveOptions& options) const override {
    const auto begin = std::chrono::steady_clock::now();
    const auto end = begin + std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                                 std::chrono::duration<double>(options.time_limit));
    const Assignment feasible = feasible_assignment(problem, options.seed);
    Solution best = finished(problem, feasible, name(), begin);
    const auto offer = [&](const Assignment& assignment) {
      if (!check_limits(problem, assignment).empty()) return;
      Solution solution = finished(problem, assignment, name(), begin);
      if (better(problem.objective, solution.value, best.value)) best = std::move(solution);
    };
    offer(contiguous_assignment(problem));
    if (options.start) offer(*options.start);
    if (problem.objective == Objective::load)
      offer(lightest(problem, options, best.assignment, end));
    else
      offer(Sweep(problem, options, best.assignment, end).run());
    best.interrupted = options.stop && *options.stop;
    return best;
  }
};

}  // namespace

std::unique_ptr<Solver> make_sweep_solver() {
  return std::make_unique<SweepSolver>();
}

}  // namespace coterie
