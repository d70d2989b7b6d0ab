// The program as a user meets it: `coterie plan`, its files, its messages and exit codes.
#include "placement/plan.hpp"
#include "placement/problem.hpp"
#include "placement/trace/holdout.hpp"
#include "placement/trace/load_trace.hpp"
#include "placement/trace/trace.hpp"
#include "tests/placement/random_problem.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace coterie {
namespace {

using testing::HasSubstr;

const std::string kTop2 = std::string(COTERIE_FIXTURES) + "/traces/top2.trace.safetensors";
const std::string kOlmoe = std::string(COTERIE_FIXTURES) + "/traces/olmoe-1b-7b.decode.safetensors";

struct Ended {
  int code = 0;
  std::string text;  ///< stdout and stderr
};

class PlanCommand : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  std::string read(const std::string& name) const {
    std::ostringstream out;
    out << std::ifstream(folder_ / name).rdbuf();
    return out.str();
  }

  Ended run(const std::string& arguments) const {
    const std::string command =
        std::string(COTERIE_PROGRAM) + " " + arguments + " > " + path("log") + " 2>&1 < /dev/null";
    const int status = std::system(command.c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read("log")};
  }
  Ended plan(const std::string& arguments) const { return run("plan --time-limit 1.5 " + arguments); }

  void expect_refused(const std::string& arguments, const std::string& message) const {
    const Ended ended = plan(arguments);
    EXPECT_EQ(ended.code, 2) << arguments;
    EXPECT_THAT(ended.text, HasSubstr(message)) << arguments;
  }

  ScratchFolder folder_;
};

/// What the plan's figures are counted on.
Problem problem_of(const Plan& plan, std::vector<WeightedTrace> traces) {
  Problem problem;
  problem.objective = objective_of(plan.certificate->objective);
  problem.domain = domain_of(plan.certificate->domain);
  problem.topology = plan.topology;
  problem.prices = {plan.certificate->price_inside_node, plan.certificate->price_between_nodes};
  problem.balance = plan.certificate->balance;
  problem.slots_per_rank = plan.slots_per_rank;
  problem.traces = std::move(traces);
  problem.statistics = count(problem.traces, {.by_gate = plan.certificate->by_gate, .top = plan.certificate->top});
  return problem;
}

Owners owners_of_plan(const Plan& plan) {
  Owners owners(plan.layers(), std::vector<std::vector<int>>(plan.experts));
  for (int l = 0; l < plan.layers(); ++l)
    for (int e = 0; e < plan.experts; ++e) owners[l][e] = plan.owners(l, e);
  return owners;
}

TEST_F(PlanCommand, WritesAPlanThatIsWorthWhatItSays) {
  const Ended ended =
      plan("--trace " + kTop2 + "=2 --ranks 4 --nodes 2 --price 1:4 --balance 1.2 --output " + path("plan.json") +
           " --report " + path("report.html") + " --certificate " + path("bound.safetensors"));
  ASSERT_EQ(ended.code, 0) << ended.text;
  const Plan found = read_plan(path("plan.json"));
  ASSERT_TRUE(found.certificate);
  EXPECT_EQ(found.certificate->objective, "traffic");
  ASSERT_EQ(found.sources.size(), 1U);
  EXPECT_EQ(found.sources.front().weight, 2);
  EXPECT_EQ(found.sources.front().digest.rfind("sha256:", 0), 0U);
  const Trace trace = read_trace(kTop2);
  const Problem problem = problem_of(found, {{&trace, 2, 0, -1}});
  EXPECT_NEAR(evaluate(problem, owners_of_plan(found)), found.certificate->value, 1e-9);
  EXPECT_NEAR(evaluate(problem, contiguous_assignment(problem)), found.certificate->baseline, 1e-9);
  EXPECT_LT(found.certificate->value, found.certificate->baseline);
  EXPECT_LE(found.certificate->bound, found.certificate->value);
  EXPECT_FALSE(found.certificate->bound_kind.empty());
  EXPECT_EQ(check_limits(problem, owners_of_plan(found)), "");
  EXPECT_THAT(ended.text, HasSubstr("contiguous -> "));
  EXPECT_THAT(ended.text, HasSubstr("the gap is"));
  EXPECT_THAT(read("report.html"), HasSubstr("</html>"));

  const std::string check =
      "inspect " + path("plan.json") + " --trace " + kTop2 + " --check --certificate " + path("bound.safetensors");
  EXPECT_EQ(run(check).code, 0) << read("log");
}

TEST_F(PlanCommand, LeavesSequencesOutAndSaysWhatThePlanIsWorthThere) {
  const Ended ended = run("plan --time-limit 4 --trace " + kOlmoe +
                          " --ranks 8 --holdout 0.25 --seed 3 --balance none --no-bound --output " + path("plan.json"));
  ASSERT_EQ(ended.code, 0) << ended.text;
  EXPECT_THAT(ended.text, HasSubstr("left out"));
  EXPECT_THAT(ended.text, HasSubstr("the fit does not carry over"));  // four prompts of four kinds
  EXPECT_THAT(ended.text, HasSubstr("total variation"));
  const Plan found = read_plan(path("plan.json"));
  EXPECT_EQ(found.certificate->holdout, 0.25);
  EXPECT_EQ(found.certificate->bound_kind, "");
  EXPECT_THAT(run("inspect " + path("plan.json")).text, HasSubstr("no bound"));
  const Trace trace = read_trace(kOlmoe);
  const Split split = hold_out({{&trace, 1, 0, trace.tokens()}}, 0.25, 3);
  EXPECT_NEAR(evaluate(problem_of(found, split.fitted), owners_of_plan(found)), found.certificate->value, 1e-9);
}

TEST_F(PlanCommand, CoversEveryTokenOnceWhateverIsLeftOut) {
  const Trace trace = read_trace(kOlmoe);
  for (const double share : {0.01, 0.3, 0.95}) {
    const Split split = hold_out({{&trace, 1, 100, 1500}}, share, 9);
    std::vector<int> seen(trace.tokens(), 0);
    for (const auto* side : {&split.fitted, &split.left_out}) {
      EXPECT_FALSE(side->empty());
      for (const WeightedTrace& part : *side)
        for (std::int64_t t = part.first; t < part.first + part.count; ++t) ++seen[t];
    }
    for (std::int64_t t = 0; t < trace.tokens(); ++t) ASSERT_EQ(seen[t], t >= 100 && t < 1600) << t;
  }
}

TEST_F(PlanCommand, ComparesSolversAndPlacesReplicas) {
  const Ended ended =
      plan("--trace " + kTop2 + " --ranks 4 --replicas 4 --compare --no-bound --output " + path("plan.json"));
  ASSERT_EQ(ended.code, 0) << ended.text;
  for (const char* name : {"contiguous", "sweep *", "round-robin", "bipartition", "eplb"})
    EXPECT_THAT(ended.text, HasSubstr(name));
  const Plan found = read_plan(path("plan.json"));
  EXPECT_EQ(found.slots_per_rank, 5);
  std::size_t copies = 0;
  for (const auto& layer : owners_of_plan(found))
    for (const auto& ranks : layer) copies += ranks.size();
  EXPECT_GT(copies, static_cast<std::size_t>(found.layers() * found.experts));
}

TEST_F(PlanCommand, TakesCountsOfLoadForTheLoadObjective) {
  LoadTrace loads{.model = "m", .num_experts = 8, .top_k = 2, .layer_ids = {1, 2}, .counts = {}};
  for (int l = 0; l < 2; ++l)
    for (std::uint32_t e = 0; e < 8; ++e) loads.counts.push_back(10 + 7 * e);
  write_load_trace(path("loads.safetensors"), loads);
  const Ended ended =
      plan("--trace " + path("loads.safetensors") + " --ranks 2 --objective load --output " + path("plan.json"));
  EXPECT_EQ(ended.code, 0) << ended.text;
  EXPECT_NEAR(read_plan(path("plan.json")).certificate->value, 1, 1e-9);
  expect_refused("--trace " + path("loads.safetensors") + " --ranks 2", "--objective load");
}

TEST_F(PlanCommand, RaisesTheUsualLoadLimitWhereNothingKeepsIt) {
  const Ended usual = plan("--trace " + kTop2 + " --ranks 16 --no-bound");
  EXPECT_EQ(usual.code, 0) << usual.text;
  EXPECT_THAT(usual.text, HasSubstr("the limit was raised"));
  expect_refused("--trace " + kTop2 + " --ranks 16 --balance 1.1", "infeasible: load limit 1.1: layer ");
}

TEST_F(PlanCommand, NamesTheLimitThatCantBeKept) {
  expect_refused("--trace " + kTop2 + " --ranks 4 --slots 3", "infeasible: slots: 3 slots on each of 4 ranks");
  expect_refused("--trace " + kTop2 + " --ranks 4 --memory 1GiB --expert-size 64MiB", "infeasible: memory: ");
  EXPECT_EQ(plan("--trace " + kTop2 + " --ranks 4 --memory 4GiB --expert-size 64MiB --no-bound").code, 0);
}

TEST_F(PlanCommand, RefusesWrongInput) {
  expect_refused("--ranks 4", "--trace is missing");
  expect_refused("--trace " + kTop2, "--ranks is missing");
  expect_refused("--trace " + kTop2 + " --ranks 4 --solver best", "expected one of auto");
  expect_refused("--trace " + kTop2 + " --ranks 4 --objective speed", "coterie plan: --objective: found 'speed'");
  expect_refused("--trace " + kTop2 + " --ranks 4 --price 8:1", "--price");
  expect_refused("--trace " + kTop2 + " --ranks 4 --nodes 5", "--nodes");
  expect_refused("--trace " + kTop2 + " --ranks-per-node 2,0", "--ranks-per-node");
  expect_refused("--trace " + kTop2 + " --ranks 4 --window 60000:10", "--window");
  expect_refused("--trace " + kTop2 + " --trace " + kOlmoe + " --ranks 4", "num_experts: found 64");
  expect_refused("--trace " + kOlmoe + " --ranks 4 --top 1", "gate_order: found unordered");
  expect_refused("--trace " + path("none") + " --ranks 4", path("none"));
  expect_refused("--trace " + kTop2 + " --ranks 4 --output " + path("a") + " --report " + path("a"),
                 "another file than --output");
  expect_refused("--trace " + kTop2 + " --ranks 4 --seeds 1", "unrecognised option");
  EXPECT_FALSE(std::filesystem::exists(path("a")));
}

TEST_F(PlanCommand, LooksAtItsOutputsBeforeItWorks) {
  const std::string trace = path("trace.safetensors"), same = path("./trace.safetensors");
  std::filesystem::copy_file(kOlmoe, trace);
  const auto begin = std::chrono::steady_clock::now();
  for (const std::string option : {"--output ", "--certificate ", "--report "}) {
    const std::string command = "--time-limit 600 --trace " + trace + " --ranks 4 " + option;
    for (const std::string& wrong : {same, path("no/folder/out"), path("")}) {
      const Ended ended = run("plan " + command + wrong);
      EXPECT_EQ(ended.code, 2) << option << wrong;
      EXPECT_THAT(ended.text, HasSubstr(wrong));
    }
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
  EXPECT_EQ(read("trace.safetensors").size(), std::filesystem::file_size(kOlmoe)) << "an input is no output";
  const std::string limited = "ulimit -f 1; " + std::string(COTERIE_PROGRAM) + " plan --no-bound --trace " + trace +
                              " --ranks 4 --solver contiguous --output " + path("plan.json") + " 2>&1 | cat > ";
  ASSERT_EQ(std::system((limited + path("log")).c_str()), 0);
  EXPECT_THAT(read("log"), HasSubstr("plan.json: cannot write: File too large"));
  const std::string inspect = std::string(COTERIE_PROGRAM) + " inspect " + trace;
  EXPECT_EQ(WEXITSTATUS(std::system((inspect + " > /dev/full 2> " + path("log")).c_str())), 2);
}

TEST_F(PlanCommand, WritesThroughStdoutAlsoIntoAPipe) {
  const std::string command = std::string(COTERIE_PROGRAM) + " plan --no-bound --solver contiguous --ranks 4 --trace " +
                              kTop2 + " --output /dev/stdout 2> " + path("log") + " | cat > " + path("out");
  ASSERT_EQ(std::system(command.c_str()), 0);
  EXPECT_THAT(read("out"), HasSubstr("physical_to_logical")) << read("log");
}

TEST_F(PlanCommand, BaselinesThatKnowNoLoadLimitSayThatTheyBreakIt) {
  for (const std::string solver : {"contiguous", "round-robin", "balanced", "bipartition", "eplb"}) {
    const std::string command = "--no-bound --ranks 4 --trace " + kTop2 + " --solver " + solver;
    const Ended ended = plan(command + " --output " + path("plan.json"));
    EXPECT_EQ(ended.code, 0) << ended.text;
    const bool broken = plan(command + " --balance 1.1").code == 2;
    EXPECT_EQ(ended.text.find("not kept by --solver") != std::string::npos, broken) << ended.text;
  }
}

TEST_F(PlanCommand, WritesTheBestPlanSoFarWhenItIsStopped) {
  const std::string command = "exec " + std::string(COTERIE_PROGRAM) + " plan --trace " + kOlmoe +
                              " --ranks 8 --objective affinity --time-limit 600 --output " + path("plan.json") + " > " +
                              path("log") + " 2>&1";
  const pid_t child = fork();
  if (child == 0) {
    execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    _exit(127);
  }
  // The first line of progress comes from the search.
  for (int i = 0; i < 600 && read("log").find("sweep: round") == std::string::npos; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  ASSERT_EQ(kill(child, SIGINT), 0);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << read("log");
  EXPECT_EQ(WEXITSTATUS(status), 75) << read("log");
  EXPECT_THAT(read("log"), HasSubstr("stopped by a signal; the plan is the best"));
  const Plan found = read_plan(path("plan.json"));
  EXPECT_GE(found.certificate->value, found.certificate->baseline);
}

TEST_F(PlanCommand, HelpFitsAScreen) {
  const Ended ended = run("plan --help");
  EXPECT_EQ(ended.code, 0);
  EXPECT_LE(std::count(ended.text.begin(), ended.text.end(), '\n'), 48);
  EXPECT_THAT(ended.text, HasSubstr("auto, dp, ilp, sweep"));
}

}  // namespace
}  // namespace coterie
