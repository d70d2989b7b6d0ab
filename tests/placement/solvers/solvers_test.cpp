// What must hold for every solver, and for those that search.
#include "placement/check/check_certificate.hpp"
#include "placement/input_error.hpp"
#include "placement/solvers/solver.hpp"
#include "tests/placement/random_problem.hpp"
#include "tests/placement/small_problem.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

namespace coterie {
namespace {

SolveOptions quick(std::uint64_t seed, double time_limit = 0.3) {
  SolveOptions options;
  options.seed = seed;
  options.time_limit = time_limit;
  options.threads = 2;
  return options;
}

bool searches(std::string_view solver) {
  return solver == "auto" || solver == "sweep" || solver == "dp" || solver == "ilp";
}

/// Solvers of this build.
std::vector<std::string> solvers() {
  std::vector<std::string> names;
  for (const std::string_view name : solver_names()) {
    try {
      static_cast<void>(make_solver(name));
      names.emplace_back(name);
    } catch (const InputError&) {  // ilp, without HiGHS
    }
  }
  return names;
}

/// What a placement is worth and whether it keeps its limits, by code that no solver uses.
CheckResult recounted(const RandomProblem& made, const Assignment& assignment, double value) {
  const Problem& p = made.problem;
  Plan plan{.model = made.trace->model,
            .layer_ids = made.trace->layer_ids,
            .experts = p.experts(),
            .top_k = made.trace->top_k,
            .topology = p.topology,
            .slots_per_rank = p.slots(),
            .physical_to_logical = slots_of(p, owners_of(assignment)),
            .certificate = Certificate{},
            .sources = {}};
  plan.certificate->objective = name_of(p.objective);
  plan.certificate->domain = name_of(p.domain);
  plan.certificate->balance = p.balance.value_or(0);
  plan.certificate->value = value;
  return check_certificate(plan, p.traces);
}

class AnySolver : public testing::TestWithParam<std::string> {};

TEST_P(AnySolver, KeepsEveryLimitOrNamesTheOneThatIsBroken) {
  const std::vector<Topology> topologies{{{1}}, {{2}}, {{5}}, {{2, 2}}, {{3, 1}}, {{9}}};
  int kept = 0;
  for (std::uint64_t seed = 1; seed <= 24; ++seed) {
    std::mt19937_64 random(seed);
    const auto below = [&](int n) { return static_cast<int>(random() % static_cast<std::uint64_t>(n)); };
    const TraceShape shape{.tokens = 120,
                           .layers = 1 + below(4),
                           .experts = 3 + below(6),
                           .top_k = 1 + below(2),
                           .weights = below(2) == 0};
    RandomProblem made = random_problem(shape, topologies[seed % topologies.size()], seed);
    Problem& problem = made.problem;
    problem.objective = static_cast<Objective>(below(3));
    problem.domain = static_cast<Domain>(below(3));
    if (below(2) == 0) problem.balance = 1.0 + 0.1 * below(15);
    if (below(3) == 0) {
      problem.equal_counts = false;
      problem.slots_per_rank = (problem.experts() + problem.ranks() - 1) / problem.ranks() + below(3);
    }
    const std::string where = GetParam() + ", seed " + std::to_string(seed);
    try {
      const Solution solution = make_solver(GetParam())->solve(problem, quick(seed, 0.05));
      EXPECT_EQ(check_limits(problem, solution.assignment), "") << where;
      const CheckResult again = recounted(made, solution.assignment, solution.value);
      EXPECT_EQ(again.value.verdict, Verdict::holds)
          << where << ": " << solution.value << ", counted again " << again.value.found.value_or(-1);
      EXPECT_EQ(again.limits, "") << where;
      const Assignment contiguous = contiguous_assignment(problem);
      if (searches(GetParam()) && check_limits(problem, contiguous).empty()) {
        EXPECT_FALSE(better(problem.objective, evaluate(problem, contiguous), solution.value)) << where;
      }
      ++kept;
    } catch (const InputError& e) {
      const std::string text = e.what();
      const bool limit = text.rfind("infeasible: ", 0) == 0 &&
                         (text.find("load limit") != std::string::npos || text.find("slots") != std::string::npos);
      EXPECT_TRUE(limit || text.rfind("solver " + GetParam(), 0) == 0) << where << ": " << text;
    }
  }
  EXPECT_GE(kept, 5);
}

TEST_P(AnySolver, SaysWhenTheSlotsAreTooFew) {
  auto [trace, problem] = random_problem({.experts = 9}, {{4}}, 1);
  problem.slots_per_rank = 2;
  try {
    static_cast<void>(make_solver(GetParam())->solve(problem, quick(1)));
    FAIL() << "placed 9 experts in 8 slots";
  } catch (const InputError& e) {
    EXPECT_EQ(std::string(e.what()).rfind("infeasible: slots", 0), 0U) << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(All, AnySolver, testing::ValuesIn(solvers()), [](const auto& solver) {
  std::string name = solver.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Sweep, FindsTheOptimumOfSmallProblems) {
  int found = 0, all = 0;
  for (std::uint64_t seed = 1; seed <= 18; ++seed) {
    SmallProblem made = small_problem({.layers = 3, .experts = 5 + static_cast<int>(seed % 2), .top_k = 2},
                                      seed % 3 == 0 ? Topology{{2, 1}} : Topology{{2}}, seed);
    made.problem.objective = static_cast<Objective>(seed % 3);
    made.problem.domain = static_cast<Domain>(seed % 2 + 1);
    if (seed % 4 == 0) made.problem.balance = 1.25;
    made.recount();
    const auto best = best_of_all(made.problem);
    if (!best) {
      EXPECT_THROW(static_cast<void>(make_sweep_solver()->solve(made.problem, quick(seed))), InputError);
      continue;
    }
    const Solution solution = make_sweep_solver()->solve(made.problem, quick(seed, 5));
    EXPECT_FALSE(better(made.problem.objective, solution.value,
                        best->value + (made.problem.objective == Objective::affinity ? 1e-9 : -1e-9)))
        << seed;
    found += std::abs(solution.value - best->value) < 1e-9;
    ++all;
  }
  // It proves nothing, but problems as small as these leave it no excuse.
  EXPECT_EQ(found, all);
}

TEST(Sweep, ComesOutTheSameForASeedWhateverTheThreads) {
  for (const Objective objective : {Objective::affinity, Objective::traffic, Objective::load}) {
    auto [trace, problem] = random_problem({.tokens = 100, .layers = 3, .experts = 8}, {{4}}, 3);
    problem.objective = objective;
    problem.balance = 1.4;
    SolveOptions one = quick(7, 60), four = quick(7, 60);
    one.threads = 1;
    four.threads = 4;
    const Solution a = make_sweep_solver()->solve(problem, one);
    const Solution b = make_sweep_solver()->solve(problem, four);
    EXPECT_EQ(a.assignment, b.assignment);
    EXPECT_FALSE(a.interrupted);
  }
}

TEST(Auto, IsNeverWorseForMoreTime) {
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    auto [trace, problem] = random_problem({.tokens = 600, .layers = 6, .experts = 24}, {{2, 2}}, seed);
    problem.objective = seed % 2 == 0 ? Objective::affinity : Objective::traffic;
    if (seed % 3 == 0) problem.balance = 1.3;
    std::optional<double> before;
    for (const double seconds : {0.01, 0.05, 0.2, 0.8}) {
      const double value = make_auto_solver()->solve(problem, quick(seed, seconds)).value;
      EXPECT_FALSE(before && better(problem.objective, *before, value)) << "seed " << seed << ", " << seconds << " s";
      before = value;
    }
  }
}

TEST(Sweep, ReturnsTheBestSoFarWhenItIsStopped) {
  auto [trace, problem] = random_problem({.tokens = 2000, .layers = 16, .experts = 64, .top_k = 4}, {{8}}, 2);
  std::atomic<bool> stop = false;
  SolveOptions options = quick(1, 600);
  options.stop = &stop;
  const auto begin = std::chrono::steady_clock::now();
  std::jthread signal([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    stop = true;
  });
  const Solution solution = make_sweep_solver()->solve(problem, options);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60)) << "it went on";
  EXPECT_TRUE(solution.interrupted);
  EXPECT_EQ(check_limits(problem, solution.assignment), "");
  EXPECT_DOUBLE_EQ(solution.value, evaluate(problem, solution.assignment));
}

TEST(Sweep, LeavesFixedLayersAsTheyAre) {
  auto [trace, problem] = random_problem({.tokens = 300, .layers = 5, .experts = 12}, {{4}}, 6);
  problem.objective = Objective::affinity;
  problem.fixed.assign(5, {});
  const std::vector<int> given{3, 3, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0};
  problem.fixed[1] = problem.fixed[3] = given;
  const Solution solution = make_sweep_solver()->solve(problem, quick(1));
  EXPECT_EQ(solution.assignment[1], given);
  EXPECT_EQ(solution.assignment[3], given);
  EXPECT_GT(solution.value, evaluate(problem, contiguous_assignment(problem)));
}

class Replicas : public testing::TestWithParam<Objective> {};

TEST_P(Replicas, KeepSlotsAndLimitsAndNeverCostAnything) {
  int used = 0;
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    auto [trace, problem] = random_problem({.tokens = 400, .layers = 3, .experts = 12, .top_k = 2},
                                           seed % 2 == 0 ? Topology{{2, 2}} : Topology{{3}}, seed);
    // Every other token wants expert 0, which no rank can carry alone.
    for (std::size_t i = 0; i < trace->experts.size(); i += 4)
      if (trace->experts[i + 1] != 0) trace->experts[i] = 0;
    problem.statistics = plain_statistics(*trace);
    problem.objective = GetParam();
    problem.domain = static_cast<Domain>(seed % 3);
    if (seed % 3 == 0) problem.balance = 2.5;
    const Solution without = make_sweep_solver()->solve(problem, quick(seed));
    problem.replicas = 4;
    const Solution with = make_sweep_solver()->solve(problem, quick(seed));
    EXPECT_EQ(check_limits(problem, with.owners), "") << "seed " << seed;
    EXPECT_DOUBLE_EQ(with.value, evaluate(problem, with.owners));
    int copies = 0;
    for (const auto& layer : with.owners) {
      int more = 0;
      for (const auto& ranks : layer) more += static_cast<int>(ranks.size()) - 1;
      EXPECT_LE(more, problem.replicas);
      copies += more;
    }
    used += copies;
    // The search without them had more time; homes are counted in another way.
    EXPECT_FALSE(
        better(problem.objective, without.value, with.value * (GetParam() == Objective::affinity ? 1.05 : 0.95)))
        << "seed " << seed << ": " << without.value << " without, " << with.value << " with " << copies << " copies";
  }
  EXPECT_GT(used, 0);
}

INSTANTIATE_TEST_SUITE_P(All, Replicas, testing::Values(Objective::affinity, Objective::traffic, Objective::load),
                         [](const auto& objective) { return std::string(name_of(objective.param)); });

TEST(ReplicasOfAll, NeedRanksToBeOn) {
  auto [trace, problem] = random_problem({.experts = 4}, {{2}}, 1);
  problem.replicas = 5;
  EXPECT_THROW(static_cast<void>(make_sweep_solver()->solve(problem, quick(1))), InputError);
}

TEST(MakeSolver, NamesWhatItKnows) {
  try {
    static_cast<void>(make_solver("best"));
    FAIL();
  } catch (const InputError& e) {
    EXPECT_NE(std::string(e.what()).find("found 'best', expected one of auto, dp, ilp, sweep"), std::string::npos);
  }
}

}  // namespace
}  // namespace coterie
