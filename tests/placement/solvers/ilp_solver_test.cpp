#include "placement/input_error.hpp"
#include "placement/solvers/dp_solver.hpp"
#include "placement/solvers/solver.hpp"
#include "tests/placement/small_problem.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <iostream>

namespace coterie {
namespace {

constexpr double kTolerance = 5e-6;  // HiGHS' own, and what its bound is moved by

class IlpSolver : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    try {
      static_cast<void>(make_solver("ilp"));
    } catch (const InputError& e) {
      std::cout << e.what() << "\n";
      std::exit(77);  // skipped
    }
  }
  static SolveOptions to_the_end() {
    SolveOptions options;
    options.gap = 0;
    options.time_limit = 60;
    options.threads = 1;
    return options;
  }
};

struct Shape {
  SmallShape random;
  Topology topology;
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {{.layers = 3, .experts = 6}, {{3}}},    {{.layers = 2, .experts = 8}, {{4}}},
      {{.layers = 3, .experts = 5}, {{2}}},    {{.layers = 2, .experts = 7}, {{3}}},
      {{.layers = 2, .experts = 6}, {{2, 1}}}, {{.layers = 2, .experts = 8}, {{2, 2}}},
  };
  return all;
}

TEST_F(IlpSolver, AgreesWithTheExactSolver) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    const Shape& shape = shapes()[seed % shapes().size()];
    SmallShape random = shape.random;
    random.top_k = 1 + static_cast<int>(seed % 2);
    SmallProblem made = small_problem(random, shape.topology, seed);
    if (seed % 3 == 0) made.problem.balance = 1.4;
    if (seed % 4 == 0) {
      made.problem.equal_counts = false;
      made.problem.slots_per_rank = made.problem.most() + 1;
    }
    Solution exact;
    try {
      exact = make_dp_solver()->solve(made.problem, {});
    } catch (const InputError&) {
      EXPECT_THROW(static_cast<void>(make_ilp_solver()->solve(made.problem, to_the_end())), InputError)
          << "seed " << seed;
      continue;
    }
    const Solution found = make_ilp_solver()->solve(made.problem, to_the_end());
    EXPECT_EQ(check_limits(made.problem, found.assignment), "") << "seed " << seed;
    EXPECT_NEAR(found.value, exact.value, kTolerance) << "seed " << seed;
    ASSERT_TRUE(found.bound.has_value()) << "seed " << seed;
    EXPECT_GE(found.bound->value, exact.value) << "seed " << seed;
    EXPECT_NEAR(found.bound->value, exact.value, kTolerance) << "seed " << seed;
  }
}

TEST_F(IlpSolver, KeepsFixedNeighbours) {
  // A window of the best placement, its ends fixed, has the best placement's middle as an optimum.
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    SmallProblem made =
        small_problem({.layers = 4, .experts = 6}, seed % 2 == 0 ? Topology{{3}} : Topology{{2, 1}}, seed);
    const Solution whole = make_dp_solver()->solve(made.problem, {});
    Problem window = made.problem;
    window.fixed.resize(4);
    window.fixed[0] = whole.assignment[0];
    window.fixed[3] = whole.assignment[3];
    SolveOptions options = to_the_end();
    options.start = whole.assignment;
    options.start->at(1) = options.start->at(0);
    const Solution found = make_ilp_solver()->solve(window, options);
    EXPECT_EQ(found.assignment[0], whole.assignment[0]);
    EXPECT_EQ(found.assignment[3], whole.assignment[3]);
    EXPECT_NEAR(found.value, whole.value, kTolerance) << "seed " << seed;
  }
}

TEST_F(IlpSolver, NeverGivesBackLessThanItsStart) {
  SmallProblem made = small_problem({.layers = 3, .experts = 12, .top_k = 2, .tokens = 400}, {{3}}, 5);
  SolveOptions options;
  options.start = make_sweep_solver()->solve(made.problem, {}).assignment;
  options.time_limit = 0.1;
  const Solution found = make_ilp_solver()->solve(made.problem, options);
  EXPECT_GE(found.value, evaluate(made.problem, *options.start));
}

TEST_F(IlpSolver, StopsWhenTold) {
  const std::atomic<bool> stop = true;
  SmallProblem made = small_problem({.layers = 6, .experts = 16, .top_k = 2, .tokens = 2000}, {{4}}, 6);
  SolveOptions options;
  options.stop = &stop;
  const Solution found = make_ilp_solver()->solve(made.problem, options);
  EXPECT_TRUE(found.interrupted);
  EXPECT_EQ(check_limits(made.problem, found.assignment), "");
  if (found.bound) {
    EXPECT_GE(found.bound->value, found.value);
  }
}

TEST_F(IlpSolver, SaysWhatItCanNotDo) {
  SmallProblem made = small_problem({.layers = 2, .experts = 4, .top_k = 2}, {{2}}, 1);
  made.problem.objective = Objective::traffic;
  EXPECT_THROW(static_cast<void>(make_ilp_solver()->solve(made.problem, {})), InputError);
}

}  // namespace
}  // namespace coterie
