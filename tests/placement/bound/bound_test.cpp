#include "placement/bound/bound.hpp"

#include "tests/placement/small_problem.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace coterie {
namespace {

/// Bounds of small problems against the best of all placements.
class Tally {
 public:
  void add(const Problem& problem, std::uint64_t seed) {
    const auto best = best_of_all(problem);
    if (!best) return;
    BoundOptions options;
    options.time_limit = 2;
    options.gap = 0;
    const Bound bound = prove_bound(problem, best->value, options);
    const double over =
        problem.objective == Objective::affinity ? bound.value - best->value : best->value - bound.value;
    EXPECT_GE(over, -1e-12 * best->value)
        << "seed " << seed << ": bound " << bound.value << ", optimum " << best->value;
    gap_ += best->value > 0 ? over / best->value : 0;
    ++count_;
  }
  [[nodiscard]] double mean_gap() const { return gap_ / count_; }
  [[nodiscard]] int count() const { return count_; }

 private:
  double gap_ = 0;
  int count_ = 0;
};

struct Shape {
  SmallShape random;
  Topology topology;
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {{.layers = 3, .experts = 4}, {{2}}},    {{.layers = 2, .experts = 6}, {{3}}},
      {{.layers = 2, .experts = 5}, {{3}}},    {{.layers = 3, .experts = 5}, {{2}}},
      {{.layers = 2, .experts = 4}, {{2, 2}}}, {{.layers = 2, .experts = 5}, {{1, 2}}},
      {{.layers = 3, .experts = 3}, {{4}}},    {{.layers = 1, .experts = 6}, {{3}}},
      {{.layers = 4, .experts = 4}, {{1, 1}}}, {{.layers = 2, .experts = 8}, {{2}}},
  };
  return all;
}

TEST(Bound, AffinityIsNeverAboveIt) {
  Tally tally;
  for (std::uint64_t seed = 1; seed <= 100; ++seed) {
    const Shape& shape = shapes()[seed % shapes().size()];
    SmallShape random = shape.random;
    random.top_k = 1 + static_cast<int>(seed % 3);
    random.gates = seed % 2 == 0;
    SmallProblem made = small_problem(random, shape.topology, seed);
    if (seed % 4 == 0) made.problem.balance = 1.2;
    tally.add(made.problem, seed);
  }
  EXPECT_LT(tally.mean_gap(), 0.02);
}

TEST(Bound, AffinityWithSpareSlots) {
  Tally tally;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SmallProblem made = small_problem({.layers = 2, .experts = 5}, {{3}}, seed);
    made.problem.equal_counts = false;
    made.problem.slots_per_rank = 3;
    if (seed % 2 == 0) made.problem.balance = 1.5;
    tally.add(made.problem, seed);
  }
  EXPECT_LT(tally.mean_gap(), 0.1);
}

TEST(Bound, TrafficIsNeverBelowIt) {
  for (const Domain domain : {Domain::world, Domain::node, Domain::rank}) {
    Tally tally;
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
      const Shape& shape = shapes()[seed % shapes().size()];
      SmallShape random = shape.random;
      random.tokens = 30;
      random.top_k = 1 + static_cast<int>(seed % 3);
      random.gates = seed % 2 == 0;
      random.skipped = seed % 5 == 0 ? 0.2 : 0;
      SmallProblem made = small_problem(random, shape.topology, seed);
      made.problem.objective = Objective::traffic;
      made.problem.domain = domain;
      if (seed % 3 == 0) made.problem.balance = 1.3;
      if (seed % 7 == 0) made.problem.prices = {.inside_node = 2, .between_nodes = 1};
      made.recount();
      tally.add(made.problem, seed);
    }
    EXPECT_LT(tally.mean_gap(), 0.12) << name_of(domain) << ", " << tally.count() << " problems";
  }
}

TEST(Bound, HoldsWithReplicas) {
  for (std::uint64_t seed = 1; seed <= 24; ++seed) {
    const Topology topology = seed % 3 == 0 ? Topology{{1, 1}} : seed % 3 == 1 ? Topology{{2}} : Topology{{3}};
    SmallProblem made = small_problem(
        {.layers = 2, .experts = topology.ranks() == 3 ? 3 : 4, .top_k = 1 + static_cast<int>(seed % 2), .tokens = 20},
        topology, seed);
    if (seed % 4 != 0) made.problem.objective = Objective::traffic;
    made.problem.replicas = 1 + static_cast<int>(seed / 2 % 2);
    made.recount();
    const auto best = best_owners_of_all(made.problem);
    ASSERT_TRUE(best.has_value());
    BoundOptions options;
    options.time_limit = 1;
    options.gap = 0;
    const Bound bound = prove_bound(made.problem, best->value, options);
    if (made.problem.objective == Objective::affinity) {
      EXPECT_GE(bound.value, best->value * (1 - 1e-12)) << "seed " << seed;
    } else {
      EXPECT_LE(bound.value, best->value * (1 + 1e-12)) << "seed " << seed;
    }
  }
}

TEST(Bound, LoadIsNeverBelowIt) {
  Tally tally;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Shape& shape = shapes()[seed % shapes().size()];
    SmallProblem made = small_problem(shape.random, shape.topology, seed);
    made.problem.objective = Objective::load;
    made.recount();
    tally.add(made.problem, seed);
  }
}

}  // namespace
}  // namespace coterie
