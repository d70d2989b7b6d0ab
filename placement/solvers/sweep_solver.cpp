#include "placement/input_error.hpp"
#include "placement/parallel.hpp"
#include "placement/search/lightest.hpp"
#include "placement/search/replicate.hpp"
#include "placement/search/sweep.hpp"
#include "placement/solvers/baselines.hpp"
#include "placement/solvers/solver.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

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

using Clock = std::chrono::steady_clock;

constexpr int kSmall = 4000;  // experts of all layers, up to which there is time to search more than once
constexpr double kSearchWithReplicas = 0.7;  // of the time; the rest is for the copies

Clock::time_point after(Clock::time_point begin, double seconds) {
  return begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

/// Every expert once.
Solution place(const Problem& problem, const SolveOptions& options, Clock::time_point begin, Clock::time_point end) {
  const std::function<bool()> stop = [&] { return Clock::now() >= end || (options.stop && *options.stop); };
  Solution best = finished(problem, feasible_assignment(problem, options.seed), "sweep", begin);
  const auto offer = [&](Assignment assignment, std::optional<double> value) {
    if (!value || !better(problem.objective, *value, best.value)) return;
    best.value = *value;
    best.assignment = std::move(assignment);
  };
  const auto try_out = [&](const Assignment& assignment) {
    if (assignment == best.assignment || !check_limits(problem, assignment).empty()) return;
    offer(assignment, evaluate(problem, owners_of(assignment), stop));
  };
  try_out(contiguous_assignment(problem));
  if (options.start) try_out(*options.start);
  if (problem.objective == Objective::load) {
    try_out(lightest(problem, options, best.assignment, end));
  } else if (!stop()) {
    Sweep::Valued found = Sweep(problem, options, {best.assignment, best.value}, end).run();
    offer(std::move(found.assignment), found.value);
  }
  best.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  return best;
}

/// The problem without replicas. Copies take load off ranks, so the placement before them may be heavier than the
/// limit: by `relaxed` times what the limit leaves above the mean; and as heavy as it must be.
Problem without_replicas(const Problem& problem, double relaxed, std::uint64_t seed) {
  constexpr double kRoom = 1.01;
  Problem base = problem;
  base.replicas = 0;
  if (problem.balance)
    base.balance =
        std::max(1 + relaxed * (*problem.balance - 1), kRoom * lightest_of_worst_layer(base, seed).over_mean);
  return base;
}

struct Replicated {
  Owners owners;
  Assessment found;
};

/// Layers that copies made too heavy go back to how they were without.
Replicated within_limits(const Problem& problem, Owners owners, const Owners& base, const std::function<bool()>& stop) {
  const auto heavy = [&](int layer, const std::vector<double>& rows) {
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(layer) * problem.ranks();
    return *std::max_element(begin, begin + problem.ranks()) > problem.load_limit(layer);
  };
  // What a layer is like changes where tokens come from at the next.
  for (;;) {
    Assessment found = *assess(problem, owners);
    if (found.broken.empty() || !problem.balance || stop()) return {std::move(owners), std::move(found)};
    bool any = false;
    const std::vector<double> rows = rank_rows(problem, owners), rows_without = rank_rows(problem, base);
    for (int l = 0; l < problem.layers(); ++l)
      if (owners[l] != base[l] && heavy(l, rows) && !heavy(l, rows_without)) {
        owners[l] = base[l];
        any = true;
      }
    if (!any) return {std::move(owners), std::move(found)};
  }
}

class SweepSolver final : public Solver {
 public:
  [[nodiscard]] std::string_view name() const noexcept override { return "sweep"; }

  [[nodiscard]] Solution solve(const Problem& problem, const SolveOptions& options) const override {
    const auto begin = Clock::now();
    const auto end = after(begin, options.time_limit);
    const auto stopped = [&] { return options.stop && *options.stop; };
    if (problem.replicas == 0) {
      Solution solution = place(problem, options, begin, end);
      solution.interrupted = stopped();
      return solution;
    }
    if (const std::string broken = check_feasible(problem); !broken.empty()) throw InputError(broken);
    // Copies have their time, however late their turn comes: a plan without them is none.
    Clock::time_point copies_end = end;
    const std::function<bool()> stop = [&] { return stopped() || Clock::now() >= copies_end; };

    // What the limit costs before the copies and what the copies cost after it can't be told apart beforehand.
    std::vector<double> relaxations{4};
    if (problem.balance && problem.layers() * problem.experts() <= kSmall) relaxations = {1, 2, 4, 8};
    std::optional<Candidate> best;
    std::string broken;
    for (std::size_t i = 0; i < relaxations.size(); ++i) {
      if (best && (stopped() || Clock::now() >= end)) break;
      const double until = kSearchWithReplicas * static_cast<double>(i + 1) / static_cast<double>(relaxations.size());
      const Solution base = place(without_replicas(problem, relaxations[i], options.seed), options, begin,
                                  after(begin, until * options.time_limit));
      copies_end = std::max(end, after(Clock::now(), (1 - kSearchWithReplicas) * options.time_limit));
      const Owners single = owners_of(base.assignment);
      const auto offer = [&](Replicated made) {
        const bool keeps = made.found.broken.empty();
        if (!keeps && !options.soft_balance) {
          broken = std::move(made.found.broken);
          return;
        }
        Candidate candidate{std::move(made.owners), base.assignment, made.found.figures, keeps};
        if (!best || preferred(problem, candidate, *best)) best = std::move(candidate);
      };
      offer(within_limits(problem, replicate(problem, base.assignment, options.threads, stop), single, stop));
      // Without copies it could only be better by value, which is known.
      const bool known_worse = best && best->keeps && !better(problem.objective, base.value, best->figures.value);
      if (!known_worse && (!best || !stop())) offer({single, *assess(problem, single)});
    }
    if (!best) throw InputError(broken);
    return {.assignment = std::move(best->first),
            .owners = std::move(best->owners),
            .value = best->figures.value,
            .bound = std::nullopt,
            .solver = std::string(name()),
            .seconds = std::chrono::duration<double>(Clock::now() - begin).count(),
            .interrupted = stopped()};
  }

 private:
  struct Candidate {
    Owners owners;
    Assignment first;  // of the experts' ranks
    Figures figures;
    bool keeps;  // the load limit
  };
  /// Within the load limit if one of them is, then by value; else the lighter one.
  static bool preferred(const Problem& problem, const Candidate& a, const Candidate& b) {
    if (a.keeps != b.keeps) return a.keeps;
    if (a.keeps) return better(problem.objective, a.figures.value, b.figures.value);
    return std::pair(a.figures.load_worst, a.figures.load_mean) < std::pair(b.figures.load_worst, b.figures.load_mean);
  }
};

}  // namespace

std::unique_ptr<Solver> make_sweep_solver() {
  return std::make_unique<SweepSolver>();
}

}  // namespace coterie
