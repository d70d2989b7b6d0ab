#include "launch/command.hpp"
#include "placement/files/digest.hpp"
#include "placement/input_error.hpp"
#include "placement/machine.hpp"
#include "placement/plan.hpp"
#include "placement/plan_facts.hpp"
#include "placement/trace/holdout.hpp"
#include "placement/trace/load_trace.hpp"
#include "placement/trace/trace.hpp"
#include "tests/placement/random_problem.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <sstream>

namespace coterie {
namespace {

using nlohmann::json;

const std::string kFixtures = COTERIE_FIXTURES;

struct Printed {
  int exit_code = 0;
  std::string text;
};

Printed inspect(const std::vector<std::string>& arguments) {
  std::vector<const char*> words(arguments.size());
  std::transform(arguments.begin(), arguments.end(), words.begin(), [](const auto& a) { return a.c_str(); });
  testing::internal::CaptureStdout();
  try {
    const int code = kInspect.run(words);
    return {code, testing::internal::GetCapturedStdout()};
  } catch (...) {
    (void)testing::internal::GetCapturedStdout();
    throw;
  }
}

json inspect_json(std::vector<std::string> arguments) {
  arguments.emplace_back("--json");
  return json::parse(inspect(arguments).text);
}

std::string complaint(const std::vector<std::string>& arguments) {
  try {
    (void)inspect(arguments);
  } catch (const InputError& e) {
    return e.what();
  }
  return "nothing";
}

/// Paths may be of any length.
void expect_80_columns(const std::string& text) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.find('/') == std::string::npos || line.find("max/mean") != std::string::npos) {
      EXPECT_LE(line.size(), 80U) << line;
    }
  }
}

/// A trace and a plan for it, as files.
class InspectPlan : public testing::Test {
 protected:
  void SetUp() override {
    made_ = random_problem({.weights = true}, {{2, 2}}, 3);
    write_trace(trace_, *made_.trace);
    plan_.model = "random";
    plan_.layer_ids = made_.trace->layer_ids;
    plan_.experts = 12;
    plan_.top_k = 2;
    plan_.topology = {{2, 2}};
    made_.problem.slots_per_rank = plan_.slots_per_rank = 5;
    owners_ = owners_of(contiguous_assignment(made_.problem));
    owners_[1][0] = {0, 3};
    plan_.physical_to_logical = slots_of(made_.problem, owners_);
    write_plan(file_, plan_);
  }

  const ScratchFolder folder_;
  const std::string trace_ = (folder_ / "t.safetensors").string();
  const std::string file_ = (folder_ / "plan.json").string();
  RandomProblem made_;
  Plan plan_;
  Owners owners_;
};

TEST(Inspect, TellsATraceFromItsContent) {
  const std::string file = kFixtures + "/traces/olmoe-1b-7b.decode.safetensors";
  const json found = inspect_json({file});
  EXPECT_EQ(found["kind"], "trace");
  EXPECT_EQ(found["model"], "allenai/OLMoE-1B-7B-0924");
  EXPECT_EQ(found["tokens"], 2048);
  EXPECT_EQ(found["layers"], 16);
  EXPECT_EQ(found["experts"], 64);
  EXPECT_EQ(found["top_k"], 8);
  EXPECT_EQ(found["sequences"], 4);
  EXPECT_EQ(found["gate_order"], "unordered");
  ASSERT_EQ(found["by_layer"].size(), 16U);
  const json& layer = found["by_layer"][3];
  EXPECT_EQ(layer["layer"], 3);
  EXPECT_GE(layer["affinity"]["top_successor"].get<double>(), layer["affinity"]["independent"].get<double>());
  EXPECT_GE(layer["load"]["heaviest"].get<double>(), 1.0);
  EXPECT_GT(layer["repeats"]["overlap"].get<double>(), 0.0);
  EXPECT_FALSE(found["by_layer"][15].contains("affinity"));

  const std::string text = inspect({file}).text;
  expect_80_columns(text);
  for (const std::string word : {"2,048 tokens", "16 MoE layers (0-15)", "top 8 of 64 experts", "affinity", "load"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word;
  }
}

TEST(Inspect, TellsALoadTrace) {
  const ScratchFolder folder;
  LoadTrace trace{"m", 2, 1, {4, 7}, {3, 1, 0, 4, 1, 3, 0, 4}};
  write_load_trace(folder / "load.safetensors", trace);
  const std::string file = (folder / "load.safetensors").string();
  const json found = inspect_json({file});
  EXPECT_EQ(found["kind"], "load trace");
  EXPECT_EQ(found["records"], 2);
  EXPECT_EQ(found["by_layer"][1]["layer"], 7);
  EXPECT_EQ(found["by_layer"][1]["load"]["heaviest"], 2.0);
  EXPECT_EQ(found["by_layer"][1]["load"]["idle"], 1);
  EXPECT_NE(inspect({file}).text.find("(4, 7)"), std::string::npos);
}

TEST_F(InspectPlan, TellsItsShapeWithoutATrace) {
  const json found = inspect_json({file_});
  EXPECT_EQ(found["kind"], "plan");
  EXPECT_EQ(found["ranks"], 4);
  EXPECT_EQ(found["ranks_per_node"], (json{2, 2}));
  EXPECT_EQ(found["replicas"], 1);
  EXPECT_TRUE(found["certificate"].is_null());
  EXPECT_FALSE(found.contains("figures"));
  expect_80_columns(inspect({file_}).text);
}

TEST_F(InspectPlan, CountsItsFiguresOnATrace) {
  const json found = inspect_json({file_, "--trace", trace_, "--domain", "node"});
  Problem problem = made_.problem;
  problem.domain = Domain::node;
  const PlanFacts facts = facts_of(problem, owners_);
  EXPECT_NEAR(found["figures"]["rows"], facts.figures.rows, 1e-9);
  EXPECT_NEAR(found["figures"]["priced"], facts.figures.priced, 1e-9);
  EXPECT_NEAR(found["figures"]["load_worst"], facts.figures.load_worst, 1e-9);
  EXPECT_NEAR(found["rows_between_ranks"][1][2], facts.traffic[1 * 4 + 2], 1e-9);
  EXPECT_NEAR(found["load"][2][3], facts.load[2 * 4 + 3], 1e-9);
  EXPECT_EQ(found["experts_held"][1], (json{3, 3, 3, 4}));
  EXPECT_EQ(found["domain"], "node");
  const std::string text = inspect({file_, "--trace", trace_}).text;
  expect_80_columns(text);
  EXPECT_NE(text.find("Rows from rank to rank"), std::string::npos);
}

TEST_F(InspectPlan, TakesTheRulesFromTheCertificate) {
  plan_.certificate = Certificate{};
  plan_.certificate->objective = "affinity";
  plan_.certificate->domain = "rank";
  plan_.certificate->top = 1;
  plan_.certificate->solver = "sweep";
  plan_.certificate->bound_kind = "dnn+triangles";
  plan_.sources = {{"elsewhere.safetensors", "sha256:0", 1, 0, -1}};
  write_plan(file_, plan_);
  const json found = inspect_json({file_, "--trace", trace_});
  EXPECT_EQ(found["objective"], "affinity");
  EXPECT_EQ(found["domain"], "rank");
  EXPECT_EQ(found["certificate"]["bound_kind"], "dnn+triangles");
  EXPECT_EQ(found["figures"]["value"], found["figures"]["affinity"]);
  EXPECT_EQ(found["strangers"], (json{trace_})) << "the trace is not the one that the plan names";
}

TEST_F(InspectPlan, CountsOnWhatThePlanWasFittedOn) {
  for (int t = 0; t < 400; ++t) made_.trace->sequence.push_back(t / 10);
  write_trace(trace_, *made_.trace);
  plan_.certificate = Certificate{};
  plan_.certificate->objective = "traffic";
  plan_.certificate->domain = "world";
  plan_.certificate->solver = "sweep";
  plan_.certificate->holdout = 0.25;
  plan_.certificate->seed = 7;
  plan_.sources = {{"t", sha256_of_file(trace_), 0.5, 100, 200}};
  write_plan(file_, plan_);
  Problem problem = made_.problem;
  problem.traces = hold_out({{made_.trace.get(), 0.5, 100, 200}}, 0.25, 7).fitted;
  problem.statistics = count(problem.traces);
  const json found = inspect_json({file_, "--trace", trace_});
  EXPECT_EQ(found["tokens"], 75.0) << "half the weight of three quarters of 200";
  EXPECT_NEAR(found["figures"]["rows"], measure(problem, owners_).rows, 1e-9);
}

TEST_F(InspectPlan, ChecksWhatThePlanSaysOfItself) {
  plan_.certificate = Certificate{};
  plan_.certificate->objective = "traffic";
  plan_.certificate->domain = "world";
  plan_.certificate->solver = "contiguous";
  plan_.certificate->value = measure(made_.problem, owners_).priced;
  plan_.certificate->baseline = measure(made_.problem, contiguous_assignment(made_.problem)).priced;
  plan_.sources = {{"t", sha256_of_file(trace_), 1, 0, -1}};
  write_plan(file_, plan_);
  const Printed good = inspect({file_, "--trace", trace_, "--check", "--json"});
  EXPECT_EQ(good.exit_code, kDone) << good.text;
  EXPECT_EQ(json::parse(good.text)["check"]["holds"], true);

  plan_.certificate->value *= 0.99;
  write_plan(file_, plan_);
  const Printed bad = inspect({file_, "--trace", trace_, "--check"});
  EXPECT_EQ(bad.exit_code, kSomeFailed);
  EXPECT_NE(bad.text.find("DOES NOT HOLD"), std::string::npos) << bad.text;

  EXPECT_NE(complaint({file_, "--check"}).find("--trace"), std::string::npos);
  EXPECT_NE(complaint({file_, "--trace", trace_, "--certificate", "c"}).find("--check"), std::string::npos);
  plan_.sources.push_back({"other", "sha256:0", 1, 0, -1});
  write_plan(file_, plan_);
  EXPECT_NE(complaint({file_, "--trace", trace_, "--check"}).find("other is missing"), std::string::npos);
}

TEST_F(InspectPlan, CountsLoadOnALoadTrace) {
  LoadTrace loads{"random", 12, 2, plan_.layer_ids, {}};
  for (int i = 0; i < 4 * 12; ++i) loads.counts.push_back(i % 12 < 3 ? 30 : 10);
  write_load_trace(folder_ / "loads.safetensors", loads);
  const std::string file = (folder_ / "loads.safetensors").string();
  const json found = inspect_json({file_, "--trace", file, "--objective", "load"});
  EXPECT_NEAR(found["load"][0][0], 4.0 * 90 / 180, 1e-9);
  EXPECT_TRUE(found["rows_between_ranks"].empty());
  EXPECT_EQ(inspect({file_, "--trace", file}).text.find("traffic"), std::string::npos);
  EXPECT_NE(complaint({file_, "--trace", file, "--trace", trace_}).find("coterie.trace/1"), std::string::npos);
}

TEST_F(InspectPlan, RefusesATraceOfAnotherModel) {
  write_trace(trace_, random_trace({.experts = 13}, 1));
  EXPECT_NE(complaint({file_, "--trace", trace_}).find("num_experts: found 13, expected 12"), std::string::npos);
  write_trace(trace_, random_trace({.layers = 3}, 1));
  EXPECT_NE(complaint({file_, "--trace", trace_}).find("layer_ids: found 1-3, expected 1-4"), std::string::npos);
}

TEST(Inspect, TellsAModelAndWhatItNeeds) {
  const std::string folder = kFixtures + "/models/trained/top2";
  const json found = inspect_json({folder, "--ranks", "3"});
  EXPECT_EQ(found["kind"], "model");
  EXPECT_EQ(found["family"], "mixtral");
  EXPECT_EQ(found["experts"], 16);
  EXPECT_EQ(found["expert_parameters"], 8 * 16 * 3 * 128 * 128);
  EXPECT_EQ(found["active_parameters"].get<std::int64_t>(),
            found["parameters"].get<std::int64_t>() - std::int64_t{8} * 14 * 3 * 128 * 128);
  ASSERT_EQ(found["by_ranks"].size(), 1U);
  const json& three = found["by_ranks"][0];
  // The fullest of three ranks has 6 of 16 experts. Norms are f32; the head is packed apart from the embedding.
  const double dense = found["parameters"].get<double>() - found["expert_parameters"].get<double>();
  const double bytes = 2 * (dense + found["expert_parameters"].get<double>() * 6 / 16) + 2 * (17 * 128 + 2048 * 128);
  EXPECT_NEAR(three["weight_bytes_bf16"], bytes, 1);
  EXPECT_NEAR(three["weight_bytes_f32"], bytes, 1) << "it is stored as BF16";
  EXPECT_EQ(found["file_bytes"], 2 * found["parameters"].get<std::int64_t>());
  EXPECT_EQ(found["quantization"], "none");
  EXPECT_NEAR(three["coherent_kv_bytes_per_token_f32"], 3 * 4 * found["kv_elements_per_token"].get<double>(), 1e-6);
  EXPECT_EQ(inspect_json({folder})["by_ranks"].size(), 5U) << "1, 2, 4, 8, 16";
  expect_80_columns(inspect({folder}).text);
}

TEST(Inspect, TellsAQuantisedModel) {
  const std::string folder = kFixtures + "/models/gpt-oss-mxfp4";
  const json found = inspect_json({folder, "--ranks", "2"});
  EXPECT_EQ(found["quantization"], "mxfp4");
  // 8 experts in each of 2 layers: 17 bytes for 32 numbers of 3 matrices 64 x 32, BF16 biases.
  const std::int64_t matrices = 2 * 8 * 3 * 64 * 32;
  const std::int64_t biases = 2 * 8 * (64 + 64);
  EXPECT_EQ(found["expert_parameters"], matrices + biases);
  const auto rest = found["parameters"].get<std::int64_t>() - matrices;
  EXPECT_EQ(found["file_bytes"], matrices / 32 * 17 + 2 * rest);
  EXPECT_EQ(found["by_ranks"][0]["weight_bytes_f32"], found["by_ranks"][0]["weight_bytes_bf16"]) << "MXFP4 fits bf16";
  expect_80_columns(inspect({folder}).text);
}

TEST(Inspect, TellsAMachine) {
  const ScratchFolder folder;
  const std::string file = (folder / "m.json").string();
  write_machine(file, {"coterie", "2026-01-31", "a host", {1e-6, 4e11}, Link{1e-5, 5e10}, {{64, 5e14}}, 1U << 30U});
  const json found = inspect_json({file});
  EXPECT_EQ(found["kind"], "machine");
  EXPECT_EQ(found["prices"]["between_nodes"], 8.0);
  EXPECT_EQ(found["inside_node"]["rows_worth_a_weight_move"], 1250.0);
  EXPECT_NE(inspect({file}).text.find("1.00 GiB a rank"), std::string::npos);

  write_machine(file, {"coterie", "2026-01-31", "a host", {1e-6, 4e11}, {}, {{64, 5e14}}});
  EXPECT_EQ(inspect_json({file})["memory_per_rank_bytes"], nullptr);
  EXPECT_NE(inspect({file}).text.find("not known"), std::string::npos);
}

TEST(Inspect, SaysWhatItCannotRead) {
  const ScratchFolder folder;
  const auto written = [&](const std::string& name, const std::string& bytes) {
    write_bytes(folder / name, bytes);
    return (folder / name).string();
  };
  EXPECT_NE(complaint({(folder / "none").string()}).find("no such file"), std::string::npos);
  EXPECT_NE(complaint({written("empty", "")}).find("empty"), std::string::npos);
  EXPECT_NE(complaint({written("text", "hello, world")}).find("neither JSON nor safetensors"), std::string::npos);
  EXPECT_NE(complaint({written("a.json", "{}")}).find("format: found none"), std::string::npos);
  EXPECT_NE(complaint({written("b.json", R"({"format": "coterie.other/1"})")}).find("coterie.other/1"),
            std::string::npos);
  EXPECT_NE(complaint({written("c.json", R"({"format": )")}).find("c.json"), std::string::npos);
  EXPECT_NE(complaint({written("short.safetensors", "\x20{\"a\"")}).find("short.safetensors"), std::string::npos);
  EXPECT_NE(complaint({folder.operator/("").string()}).find("config.json"), std::string::npos);
}

TEST(Inspect, SaysWhatIsWrongWithItsOptions) {
  const std::string model = kFixtures + "/models/trained/top2";
  EXPECT_NE(complaint({}).find("expected one"), std::string::npos);
  EXPECT_NE(complaint({"a", "b"}).find("2 files"), std::string::npos);
  EXPECT_NE(complaint({"a", "--ranks", "0"}).find("1 to 65535"), std::string::npos);
  EXPECT_NE(complaint({"a", "--bogus"}).find("--bogus"), std::string::npos);
  EXPECT_NE(complaint({"a", "--domain", "planet"}).find("rank, node or world"), std::string::npos);
  EXPECT_NE(complaint({model, "--trace", "t"}).find("--trace is for plans"), std::string::npos);
  expect_80_columns(inspect({"--help"}).text);
  const std::string help = inspect({"--help"}).text;
  EXPECT_LE(std::count(help.begin(), help.end(), '\n'), 24) << "one screen";
}

}  // namespace
}  // namespace coterie
