#include "placement/check/check_certificate.hpp"

#include "placement/bound/bound.hpp"
#include "placement/files/safetensors.hpp"
#include "placement/input_error.hpp"
#include "placement/solvers/solver.hpp"
#include "tests/placement/scratch_folder.hpp"
#include "tests/placement/small_problem.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstring>

namespace coterie {
namespace {

/// A plan of a small problem, with what it says of itself and the file that proves it.
class Certified {
 public:
  Certified(SmallProblem made, const Bound& bound, const Owners& owners) : made_(std::move(made)) {
    const Problem& problem = made_.problem;
    plan.model = made_.trace->model;
    plan.layer_ids = made_.trace->layer_ids;
    plan.experts = problem.experts();
    plan.top_k = made_.trace->top_k;
    plan.topology = problem.topology;
    plan.slots_per_rank = problem.slots();
    plan.physical_to_logical = slots_of(problem, owners);
    Certificate& c = plan.certificate.emplace();
    c.objective = name_of(problem.objective);
    c.domain = name_of(problem.domain);
    c.price_inside_node = problem.prices.inside_node;
    c.price_between_nodes = problem.prices.between_nodes;
    c.balance = problem.balance.value_or(0);
    c.top = problem.top;
    c.by_gate = problem.objective == Objective::affinity;
    c.value = evaluate(problem, owners);
    c.baseline = measure(problem, contiguous_assignment(problem)).value;
    c.bound = bound.value;
    c.bound_kind = bound.kind;
    c.gap = std::abs(c.bound - c.value) / c.value;
    write_certificate(file(), problem, bound);
  }

  [[nodiscard]] std::filesystem::path file() const { return folder_ / "proof.safetensors"; }
  [[nodiscard]] CheckResult check(bool with_file = true) const {
    return check_certificate(plan, made_.problem.traces, with_file ? std::optional(file()) : std::nullopt);
  }
  /// Adds to one number of an array of the file.
  template <typename T>
  void spoil(const std::string& array, std::size_t index, T change) const {
    std::string bytes = read_bytes(file());
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof header);
    const auto json = nlohmann::json::parse(bytes.substr(8, header));
    char* at = bytes.data() + 8 + header + json[array]["data_offsets"][0].get<std::size_t>() + index * sizeof(T);
    T value{};
    std::memcpy(&value, at, sizeof value);
    value = static_cast<T>(value + change);
    std::memcpy(at, &value, sizeof value);
    write_bytes(file(), bytes);
  }

  Plan plan;

 private:
  SmallProblem made_;
  ScratchFolder folder_;
};

BoundOptions quick() {
  BoundOptions options;
  options.time_limit = 1;
  options.gap = 0;
  return options;
}

Certified with_dual_values(SmallProblem made) {
  const Owners owners = owners_of(contiguous_assignment(made.problem));
  const Bound bound = prove_bound(made.problem, evaluate(made.problem, owners), quick());
  return {std::move(made), bound, owners};
}

SmallProblem traffic_problem(std::uint64_t seed, const Topology& topology = {{2, 2}}) {
  SmallProblem made = small_problem({.layers = 3, .experts = 8, .top_k = 3, .tokens = 200}, topology, seed);
  made.problem.objective = Objective::traffic;
  made.recount();
  return made;
}

struct Shape {
  SmallShape random;
  Topology topology;
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {
      {{.layers = 3, .experts = 8}, {{4}}},    {{.layers = 2, .experts = 7}, {{3}}},
      {{.layers = 3, .experts = 6}, {{2, 1}}}, {{.layers = 2, .experts = 8}, {{2, 2}}},
      {{.layers = 1, .experts = 6}, {{3}}},    {{.layers = 4, .experts = 5}, {{1, 1}}},
  };
  return all;
}

TEST(CheckCertificate, FindsWhatTheSolverFound) {
  for (std::uint64_t seed = 1; seed <= 72; ++seed) {
    SmallShape random = shapes()[seed % shapes().size()].random;
    random.top_k = 1 + static_cast<int>(seed % 3);
    random.gates = seed % 2 == 0;
    random.skipped = seed % 5 == 0 ? 0.1 : 0;
    SmallProblem made = small_problem(random, shapes()[seed % shapes().size()].topology, seed);
    if (seed % 4 != 0) made.problem.objective = Objective::traffic;
    made.problem.domain = static_cast<Domain>(seed / 6 % 3);
    if (seed % 7 == 0) made.problem.balance = 5;
    if (seed % 11 == 0) made.problem.prices = {.inside_node = 3, .between_nodes = 1};
    if (seed % 3 == 0) {
      made.problem.equal_counts = false;
      made.problem.slots_per_rank = (made.problem.experts() + made.problem.ranks() - 1) / made.problem.ranks() + 1;
    }
    made.recount();
    const CheckResult result = with_dual_values(std::move(made)).check();
    EXPECT_EQ(result.value.verdict, Verdict::holds)
        << "seed " << seed << ": " << result.value.stated << " stated, " << *result.value.found << " found";
    EXPECT_EQ(result.bound.verdict, Verdict::holds)
        << "seed " << seed << ": " << result.bound.stated << " stated, " << result.bound.found.value_or(-1)
        << " found, " << result.bound.remark;
    EXPECT_EQ(result.limits, "") << "seed " << seed;
    EXPECT_TRUE(result.holds()) << "seed " << seed;
  }
}

TEST(CheckCertificate, CountsTheFirstExpertsOfATokenThatHasMore) {
  SmallProblem made = small_problem({.layers = 1, .experts = 40, .top_k = 40, .tokens = 50}, {{2, 2, 2, 1, 1}}, 1);
  made.problem.objective = Objective::traffic;
  made.recount();
  const CheckResult result = with_dual_values(std::move(made)).check();
  EXPECT_GT(result.bound.stated, 0);
  EXPECT_EQ(result.bound.verdict, Verdict::holds) << result.bound.stated << " stated, " << *result.bound.found;
}

TEST(CheckCertificate, FindsTheOptimumOfTheExactSolver) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SmallShape random = shapes()[seed % shapes().size()].random;
    random.top_k = 1 + static_cast<int>(seed % 3);
    random.gates = seed % 2 == 0;
    SmallProblem made = small_problem(random, shapes()[seed % shapes().size()].topology, seed);
    made.problem.objective = static_cast<Objective>(seed % 3);
    if (seed % 4 == 0) made.problem.balance = 2;
    made.recount();
    const Solution solution = make_dp_solver()->solve(made.problem, {});
    Certified certified(std::move(made), *solution.bound, owners_of(solution.assignment));
    for (const bool with_file : {true, false}) {
      const CheckResult result = certified.check(with_file);
      EXPECT_EQ(result.bound.verdict, Verdict::holds) << "seed " << seed << ": " << result.bound.stated << " stated, "
                                                      << result.bound.found.value_or(-1) << " found";
      EXPECT_TRUE(result.holds()) << "seed " << seed;
    }
    certified.plan.certificate->bound *= 1.001;
    EXPECT_EQ(certified.check().bound.verdict, Verdict::fails) << "seed " << seed;
  }
}

TEST(CheckCertificate, FindsTheOptimumAmongManyPlacementsToo) {
  SmallProblem made = small_problem({.layers = 2, .experts = 10, .top_k = 2, .tokens = 300}, {{5}}, 1);
  const Solution solution = make_dp_solver()->solve(made.problem, {});
  Certified certified(std::move(made), *solution.bound, owners_of(solution.assignment));
  EXPECT_EQ(certified.check(false).bound.verdict, Verdict::holds);
  certified.plan.certificate->bound *= 1.001;
  EXPECT_EQ(certified.check(false).bound.verdict, Verdict::fails);
}

TEST(CheckCertificate, CountsReplicas) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SmallProblem made = traffic_problem(seed, seed % 2 == 0 ? Topology{{4}} : Topology{{2, 2}});
    if (seed % 3 == 0) made.problem.objective = Objective::affinity;
    made.problem.replicas = 4;
    made.recount();
    Owners owners = owners_of(contiguous_assignment(made.problem));
    for (auto& layer : owners) {  // two experts on each of four ranks; each rank takes one more
      layer[0] = {0, 1};
      layer[1] = {0, 2};
      layer[2] = {1, 3};
      layer[4] = {0, 2};
    }
    const Bound bound = prove_bound(made.problem, evaluate(made.problem, owners), quick());
    const CheckResult result = Certified(std::move(made), bound, owners).check();
    EXPECT_TRUE(result.holds()) << "seed " << seed << ": value " << result.value.stated << " stated, "
                                << *result.value.found << " found; bound " << result.bound.stated << " stated, "
                                << result.bound.found.value_or(-1) << " found";
    EXPECT_EQ(result.bound.verdict, Verdict::holds);
  }
}

// With copies allowed the mean load is all that is sure, whether the plan has some or not.
TEST(CheckCertificate, LoadWhereReplicasAreAllowedButNotUsed) {
  SmallProblem made = small_problem({.layers = 2, .experts = 8, .top_k = 3, .tokens = 200}, {{4}}, 1);
  made.problem.objective = Objective::load;
  made.problem.replicas = 4;
  made.recount();
  Certified certified = with_dual_values(std::move(made));
  EXPECT_EQ(certified.check().bound.verdict, Verdict::holds);
  EXPECT_EQ(certified.check(false).bound.verdict, Verdict::holds);
}

// However little time there is for the relaxation: four experts are on two ranks, as a rank holds three.
TEST(CheckCertificate, FewestRanks) {
  SmallProblem made = small_problem({.layers = 2, .experts = 6, .top_k = 4, .tokens = 100}, {{3}}, 1);
  made.problem.objective = Objective::traffic;
  made.problem.replicas = 3;
  made.recount();
  const Owners owners = owners_of(contiguous_assignment(made.problem));
  BoundOptions options = quick();
  options.time_limit = 0;
  const Bound bound = prove_bound(made.problem, evaluate(made.problem, owners), options);
  EXPECT_GE(bound.value, 2 - 1e-6) << bound.kind;
  EXPECT_EQ(Certified(std::move(made), bound, owners).check().bound.verdict, Verdict::holds);
}

TEST(CheckCertificate, AnotherPlacementHasAnotherValue) {
  Certified certified = with_dual_values(small_problem({.layers = 3, .experts = 8}, {{4}}, 5));
  std::swap(certified.plan.physical_to_logical[1][0], certified.plan.physical_to_logical[1][5]);
  EXPECT_EQ(certified.check().value.verdict, Verdict::fails);
  EXPECT_FALSE(certified.check().holds());
}

TEST(CheckCertificate, EveryStatedFigureIsChecked) {
  Certified value = with_dual_values(traffic_problem(1));
  value.plan.certificate->value *= 1.0001;
  EXPECT_EQ(value.check().value.verdict, Verdict::fails);

  Certified bound = with_dual_values(traffic_problem(2));
  bound.plan.certificate->bound *= 1.0001;
  EXPECT_EQ(bound.check().bound.verdict, Verdict::fails);

  Certified better = with_dual_values(traffic_problem(3));
  better.plan.certificate->bound = better.plan.certificate->value * 1.1;
  EXPECT_EQ(better.check().bound.verdict, Verdict::fails);

  Certified baseline = with_dual_values(traffic_problem(5));
  baseline.plan.certificate->baseline *= 1.5;
  EXPECT_EQ(baseline.check().baseline.verdict, Verdict::fails);
  EXPECT_FALSE(baseline.check().holds());

  Certified gap = with_dual_values(traffic_problem(6));
  gap.plan.certificate->gap /= 2;
  EXPECT_EQ(gap.check().gap.verdict, Verdict::fails);
  EXPECT_FALSE(gap.check().holds());

  Certified heavy = with_dual_values(traffic_problem(4));
  heavy.plan.certificate->balance = 1.0001;
  EXPECT_NE(heavy.check(false).limits, "");
  EXPECT_FALSE(heavy.check(false).holds());
  EXPECT_THROW(static_cast<void>(heavy.check()), InputError);  // the file proves a bound without a limit
}

TEST(CheckCertificate, EveryDualValueMatters) {
  const auto affinity = [] { return with_dual_values(small_problem({.layers = 3, .experts = 8}, {{4}}, 6)); };
  Certified matrix = affinity();
  matrix.spoil<float>("rank.matrix", 3, 1);
  EXPECT_EQ(matrix.check().bound.verdict, Verdict::fails);
  Certified not_a_number = affinity();
  not_a_number.spoil<float>("rank.matrix", 0, std::numeric_limits<float>::quiet_NaN());
  EXPECT_THROW(static_cast<void>(not_a_number.check()), InputError);

  Certified facet = with_dual_values(traffic_problem(7));
  const auto rows = static_cast<std::size_t>(SafetensorsFile(facet.file()).at("onward_facets").shape[0]);
  for (std::size_t row = 0; row < rows; ++row) facet.spoil<double>("onward_facets", 3 * row + 1, 0.5);
  EXPECT_EQ(facet.check().bound.verdict, Verdict::fails);
  Certified choice = with_dual_values(traffic_problem(8));
  choice.spoil<std::uint16_t>("facet", 1, 999);
  EXPECT_THROW(static_cast<void>(choice.check()), InputError);
  Certified members = with_dual_values(traffic_problem(9));
  members.spoil<std::uint16_t>("members", 1, 1 << 12);
  EXPECT_THROW(static_cast<void>(members.check()), InputError);
}

TEST(CheckCertificate, AnotherPlansCertificateIsRefused) {
  const Certified one = with_dual_values(small_problem({.layers = 3, .experts = 8}, {{4}}, 10));
  Certified other = with_dual_values(small_problem({.layers = 3, .experts = 8}, {{2}}, 10));
  write_bytes(other.file(), read_bytes(one.file()));
  EXPECT_THROW(static_cast<void>(other.check()), InputError);
  write_bytes(other.file(), read_bytes(one.file()).substr(0, 300));
  EXPECT_THROW(static_cast<void>(other.check()), InputError);
}

TEST(CheckCertificate, TheWordOfASolverIsNoProof) {
  SmallProblem made = small_problem({.layers = 2, .experts = 6}, {{3}}, 11);
  const Owners owners = owners_of(contiguous_assignment(made.problem));
  const Certified certified(std::move(made), {.value = 1, .kind = "ilp", .seconds = 0}, owners);
  const CheckResult result = certified.check();
  EXPECT_EQ(result.bound.verdict, Verdict::not_verified);
  EXPECT_FALSE(result.bound.found.has_value());
  EXPECT_TRUE(result.holds());
}

TEST(CheckCertificate, WithoutTheFileDualBoundsAreNotVerified) {
  const Certified certified = with_dual_values(traffic_problem(12));
  EXPECT_EQ(certified.check(false).bound.verdict, Verdict::not_verified);
  EXPECT_EQ(certified.check(false).value.verdict, Verdict::holds);
}

}  // namespace
}  // namespace coterie
