#include "placement/solvers/dp_solver.hpp"

#include "placement/input_error.hpp"
#include "placement/solvers/solver.hpp"
#include "tests/placement/small_problem.hpp"

#include <gtest/gtest.h>

#include <atomic>

namespace coterie {
namespace {

Solution solve(const Problem& problem) {
  return make_dp_solver()->solve(problem, {});
}

/// The solver finds a value as good as the best of all placements, with a placement that keeps the limits, or both say
/// that there is none.
void expect_best(const SmallProblem& made, std::uint64_t seed) {
  const auto best = best_of_all(made.problem);
  if (!best) {
    EXPECT_THROW(static_cast<void>(solve(made.problem)), InputError) << "seed " << seed;
    return;
  }
  const Solution found = solve(made.problem);
  EXPECT_EQ(check_limits(made.problem, found.assignment), "") << "seed " << seed;
  EXPECT_NEAR(found.value, best->value, 1e-9) << "seed " << seed;
  EXPECT_DOUBLE_EQ(found.value, evaluate(made.problem, found.assignment)) << "seed " << seed;
  ASSERT_TRUE(found.bound.has_value());
  EXPECT_EQ(found.bound->value, found.value);
}

struct Shape {
  SmallShape random;
  Topology topology;
};

/// Sizes that trying all placements can take: equal and unequal counts, one node, equal and uneven nodes.
const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {{.layers = 3, .experts = 4}, {{2}}},    {{.layers = 2, .experts = 8}, {{2}}},
      {{.layers = 2, .experts = 6}, {{3}}},    {{.layers = 2, .experts = 5}, {{3}}},
      {{.layers = 3, .experts = 5}, {{2}}},    {{.layers = 2, .experts = 4}, {{2, 2}}},
      {{.layers = 2, .experts = 5}, {{1, 2}}}, {{.layers = 3, .experts = 3}, {{4}}},
      {{.layers = 1, .experts = 6}, {{3}}},    {{.layers = 4, .experts = 4}, {{1, 1}}},
  };
  return all;
}

TEST(DpSolver, FindsTheBestAffinity) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    const Shape& shape = shapes()[seed % shapes().size()];
    SmallShape random = shape.random;
    random.top_k = 1 + static_cast<int>(seed % 2);
    random.gates = seed % 3 == 0;
    expect_best(small_problem(random, shape.topology, seed), seed);
  }
}

TEST(DpSolver, KeepsTheLoadLimit) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const Shape& shape = shapes()[seed % shapes().size()];
    SmallProblem made = small_problem(shape.random, shape.topology, seed);
    made.problem.balance = seed % 2 == 0 ? 1.1 : 1.3;
    expect_best(made, seed);
  }
}

TEST(DpSolver, UsesMoreSlotsThanAnEvenShare) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SmallProblem made = small_problem({.layers = 2, .experts = 5}, {{3}}, seed);
    made.problem.equal_counts = false;
    made.problem.slots_per_rank = 3;
    made.problem.balance = seed % 2 == 0 ? std::nullopt : std::optional(1.6);
    expect_best(made, seed);
  }
}

TEST(DpSolver, FindsTheLeastTraffic) {
  for (std::uint64_t seed = 1; seed <= 80; ++seed) {
    const Shape& shape = shapes()[seed % shapes().size()];
    SmallShape random = shape.random;
    random.tokens = 25;
    random.top_k = 1 + static_cast<int>(seed % 3);
    random.gates = seed % 2 == 0;
    SmallProblem made = small_problem(random, shape.topology, seed);
    made.problem.objective = Objective::traffic;
    made.problem.domain = seed % 5 == 0 ? Domain::rank : Domain::world;
    made.recount();
    expect_best(made, seed);
  }
}

TEST(DpSolver, FindsTheLightestHeaviestRank) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    SmallProblem made = small_problem({.layers = 2, .experts = 6}, {{3}}, seed);
    made.problem.objective = Objective::load;
    made.recount();
    expect_best(made, seed);
  }
}

TEST(DpSolver, KeepsAFixedLayer) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SmallProblem made =
        small_problem({.layers = 3, .experts = 4}, seed % 2 == 0 ? Topology{{2}} : Topology{{1, 1}}, seed);
    made.problem.fixed.resize(3);
    made.problem.fixed[seed % 3] = {1, 0, 0, 1};
    expect_best(made, seed);
  }
}

TEST(DpSolver, OneExpertARankAtAnySize) {
  // The labels alone decide: a chain of assignment problems.
  SmallProblem made = small_problem({.layers = 6, .experts = 64, .tokens = 3000, .structure = 1}, {{64}}, 7);
  ASSERT_EQ(why_dp_does_not_fit(made.problem), "");
  EXPECT_DOUBLE_EQ(solve(made.problem).value, 1);
}

TEST(DpSolver, SaysWhatItCanNotDo) {
  SmallProblem large = small_problem({.layers = 2, .experts = 32}, {{4}}, 1);
  EXPECT_NE(why_dp_does_not_fit(large.problem), "");
  EXPECT_THROW(static_cast<void>(solve(large.problem)), InputError);

  SmallProblem node = small_problem({.layers = 2, .experts = 4, .top_k = 2}, {{2, 2}}, 1);
  node.problem.objective = Objective::traffic;
  node.problem.domain = Domain::node;
  EXPECT_NE(why_dp_does_not_fit(node.problem), "");
  EXPECT_THROW(static_cast<void>(solve(node.problem)), InputError);

  SmallProblem skipping = small_problem({.layers = 3, .experts = 4, .skipped = 0.3}, {{2}}, 1);
  skipping.problem.objective = Objective::traffic;
  EXPECT_NE(why_dp_does_not_fit(skipping.problem), "");
  skipping.problem.objective = Objective::affinity;
  EXPECT_EQ(why_dp_does_not_fit(skipping.problem), "");
}

TEST(DpSolver, StoppedItStillPlacesEveryExpert) {
  const std::atomic<bool> stop = true;
  SmallProblem made = small_problem({.layers = 5, .experts = 8}, {{4}}, 3);
  SolveOptions options;
  options.stop = &stop;
  const Solution found = make_dp_solver()->solve(made.problem, options);
  EXPECT_TRUE(found.interrupted);
  EXPECT_FALSE(found.bound.has_value());
  EXPECT_EQ(check_limits(made.problem, found.assignment), "");
}

}  // namespace
}  // namespace coterie
