#include "placement/formats/formats.hpp"
#include "placement/input_error.hpp"
#include "tests/placement/mutate.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <functional>
#include <numeric>
#include <random>

namespace coterie {
namespace {

/// Every slot filled: E + replicas is a multiple of the ranks. Layers 1, 3, 4 of a model with a dense layer 0 and 2.
Plan random_plan(unsigned seed, bool replicas = true, bool same_layers = false) {
  std::mt19937 random(seed);
  Plan plan;
  plan.model = "a/model";
  plan.layer_ids = {1, 3, 4};
  plan.topology.ranks_per_node = {1 + static_cast<int>(random() % 3), 1 + static_cast<int>(random() % 3)};
  const int ranks = plan.ranks();
  plan.slots_per_rank = 2 + static_cast<int>(random() % 3);
  const int slots = ranks * plan.slots_per_rank;
  plan.experts = replicas ? std::max(plan.slots_per_rank, slots - static_cast<int>(random() % 3)) : slots;
  plan.top_k = 2;
  for (int l = 0; l < plan.layers(); ++l) {
    if (same_layers && l > 0) {
      plan.physical_to_logical.push_back(plan.physical_to_logical.front());
      continue;
    }
    // Dealt in turns of a random order, so that no rank gets an expert twice; then slots in any order inside a rank.
    std::vector<int> order(static_cast<std::size_t>(plan.experts));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    auto& row = plan.physical_to_logical.emplace_back();
    for (int s = 0; s < slots; ++s) row.push_back(order[static_cast<std::size_t>(s % plan.experts)]);
  }
  validate(plan, "random plan " + std::to_string(seed));
  return plan;
}

/// What the foreign files don't say about the plan.
FormatOptions options_for(const Plan& plan) {
  FormatOptions options;
  options.model = plan.model;
  options.top_k = plan.top_k;
  options.layer_ids = plan.layer_ids;
  options.dense_layers = {0, 2, 5};
  options.hidden_layers = 6;
  options.topology = plan.topology;
  return options;
}

void expect_same_placement(const Plan& a, const Plan& b, const std::string& what) {
  ASSERT_EQ(a.layer_ids, b.layer_ids) << what;
  ASSERT_EQ(a.experts, b.experts) << what;
  EXPECT_EQ(a.model, b.model) << what;
  EXPECT_EQ(a.top_k, b.top_k) << what;
  EXPECT_EQ(a.topology, b.topology) << what;
  for (int l = 0; l < a.layers(); ++l)
    for (int e = 0; e < a.experts; ++e)
      EXPECT_EQ(a.owners(l, e), b.owners(l, e)) << what << " layer " << l << " expert " << e;
}

const PlanFormat& format(std::string_view name) {
  const auto all = plan_formats();
  return *std::find_if(all.begin(), all.end(), [&](const PlanFormat& f) { return f.name == name; });
}

/// Where plans of a format keep the slots' order, replicas and all.
bool keeps_slots(const PlanFormat& f) {
  return f.name != "vllm-ep-ranks" && f.name != "exflow";
}

std::string file_of(const PlanFormat& f) {
  if (f.name == "exflow") return "plan.csv";
  if (f.name == "tensorrt-llm") return "plan.yaml";
  return f.name == "vllm-mapping" ? "plan.jsonl" : "plan.json";
}

std::string refusal(const std::function<void()>& action) {
  try {
    action();
    return "";
  } catch (const InputError& e) {
    return e.what();
  }
}

void expect_in(const std::string& part, const std::string& text) {
  EXPECT_NE(text.find(part), std::string::npos) << "'" << text << "' lacks '" << part << "'";
}

TEST(PlanFormats, EveryFormatThatIsWrittenReadsBackTheSame) {
  const ScratchFolder folder;
  for (const PlanFormat& f : plan_formats())
    for (unsigned seed = 0; seed < 20; ++seed) {
      const std::string what = std::string(f.name) + " seed " + std::to_string(seed);
      const Plan plan = random_plan(seed, keeps_slots(f), f.name == "vllm-ep-ranks");
      const auto path = folder / file_of(f);
      f.write(path, plan, options_for(plan));
      const Plan copy = f.read(path, options_for(plan));
      expect_same_placement(plan, copy, what);
      EXPECT_TRUE(!keeps_slots(f) || plan.physical_to_logical == copy.physical_to_logical) << what;
      for (const PlanFormat& other : plan_formats()) {
        if (other.recognises == nullptr) continue;
        EXPECT_EQ(other.recognises(path), other.name == f.name) << what << " seen as " << other.name;
      }
    }
}

TEST(PlanFormats, EplbIsWrittenAsNpyWhereTheNameSaysSo) {
  const ScratchFolder folder;
  const Plan plan = random_plan(3);
  format("eplb").write(folder / "p.npy", plan, options_for(plan));
  EXPECT_TRUE(read_bytes(folder / "p.npy").starts_with("\x93NUMPY"));
  EXPECT_EQ(format("eplb").read(folder / "p.npy", options_for(plan)).physical_to_logical, plan.physical_to_logical);
}

TEST(PlanFormats, EmptySlotsAreRefusedOrFilled) {
  const ScratchFolder folder;
  Plan plan = contiguous_plan("m", {0, 1}, 8, 2, Topology{{3}});
  for (const PlanFormat& f : plan_formats()) {
    if (!keeps_slots(f) || f.name == "coterie-plan") continue;
    FormatOptions options = options_for(plan);
    options.dense_layers.clear();
    options.hidden_layers = 2;
    expect_in("empty slots", refusal([&] { f.write(folder / file_of(f), plan, options); }));
    options.fill = true;
    f.write(folder / file_of(f), plan, options);
    const Plan filled = f.read(folder / file_of(f), options);
    EXPECT_EQ(filled.physical_to_logical[0], (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 0})) << f.name;
  }
}

TEST(PlanFormats, WhatATargetCannotSayIsRefused) {
  const ScratchFolder folder;
  Plan plan = contiguous_plan("m", {0, 1}, 4, 2, Topology{{2}});
  const auto write = [&](std::string_view name) {
    return refusal([&] { format(name).write(folder / "p", plan, options_for(plan)); });
  };
  std::swap(plan.physical_to_logical[1][0], plan.physical_to_logical[1][2]);
  expect_in("place experts differently", write("vllm-ep-ranks"));
  EXPECT_EQ(write("exflow"), "");
  plan.slots_per_rank = 3;
  plan.physical_to_logical = {{0, 1, 2, 2, 3, 0}, {0, 1, 2, 2, 3, 0}};
  expect_in("on 2 ranks", write("vllm-ep-ranks"));
  expect_in("on 2 ranks", write("exflow"));
  FormatOptions options = options_for(plan);
  options.hidden_layers = 1;
  expect_in("--num-hidden-layers", refusal([&] { format("sglang").write(folder / "p", plan, options); }));
}

TEST(PlanFormats, SglangHasARowForEveryLayerOfTheModel) {
  const ScratchFolder folder;
  Plan plan = contiguous_plan("m", {1, 3}, 4, 2, Topology{{2}});
  plan.physical_to_logical = {{3, 2, 1, 0}, {0, 2, 1, 3}};
  FormatOptions options = options_for(plan);
  options.hidden_layers = 5;
  format("sglang").write(folder / "p.json", plan, options);
  const auto file = nlohmann::json::parse(read_bytes(folder / "p.json"));
  EXPECT_EQ(file.size(), 1U) << "SGLang passes every key on as an argument";
  EXPECT_EQ(file.at("physical_to_logical_map"),
            nlohmann::json::parse("[[0,1,2,3],[3,2,1,0],[0,1,2,3],[0,2,1,3],[0,1,2,3]]"));
  options.dense_layers = {0, 2};
  options.layer_ids.clear();
  expect_in("no.json", refusal([&] { static_cast<void>(format("sglang").read(folder / "no.json", options)); }));
  EXPECT_EQ(format("sglang").read(folder / "p.json", options).layer_ids, (std::vector<int>{1, 3, 4}));
  options.hidden_layers = 6;
  expect_in("5 rows", refusal([&] { static_cast<void>(format("sglang").read(folder / "p.json", options)); }));
}

/// Reads a text as a format, with two ranks and a top-k of 2.
struct Reading {
  std::string_view name;
  std::string file;
  ScratchFolder folder{};
  FormatOptions options{};
  std::vector<std::string> notes{};

  Reading(std::string_view format_name, std::string file_name) : name(format_name), file(std::move(file_name)) {
    options.top_k = 2;
    options.topology = Topology{{2}};
    options.note = [this](const std::string& text) { notes.push_back(text); };
  }
  Plan operator()(std::string_view text) {
    write_bytes(folder / file, text);
    return format(name).read(folder / file, options);
  }
  std::string refused(std::string_view text) {
    std::string message = refusal([&] { static_cast<void>((*this)(text)); });
    expect_in(file, message);
    return message;
  }
};

TEST(PlanFormats, TensorrtLlmsOwnSpellingsAreRead) {
  Reading read("tensorrt-llm", "p.yaml");
  const std::vector<std::vector<int>> slots{{0, 1, 2, 0}, {2, 1, 0, 1}};
  EXPECT_EQ(read("num_slots: 4\ninitial_global_assignments:\n  3: [0, 1, 2, 0]\n  4: [2, 1, 0, "
                 "1]\nlayer_updates_per_iter: 0\n")
                .physical_to_logical,
            slots);
  EXPECT_EQ(
      read("initial_global_assignments: {3: [0, 1, 2, 0], 4: [2, 1, 0, 1]}\nlayer_updates_per_iter: 0\nnum_slots: 4\n")
          .layer_ids,
      (std::vector<int>{3, 4}));
  EXPECT_EQ(
      read("moe_config:\n  load_balancer:\n    num_slots: 4\n    initial_global_assignments:\n      3:\n      - 0\n"
           "      - 1\n      - 2\n      - 0\n      4: [2, 1,\n          0, 1]  # two lines\n")
          .physical_to_logical,
      slots);
  expect_in("num_slots", read.refused("num_slots: 5\ninitial_global_assignments:\n  3: [0, 1, 2, 0]\n"));
  expect_in("twice", read.refused("num_slots: 2\ninitial_global_assignments:\n  3: [0, 1]\n  3: [1, 0]\n"));
  expect_in("3", read.refused("num_slots: 2\ninitial_global_assignments:\n  3: [0, x]\n"));
  expect_in("YAML", read.refused("num_slots: [2\n"));
  expect_in("initial_global_assignments", read.refused("num_slots: 4\n"));
}

TEST(PlanFormats, VllmsOwnSpellingsAreRead) {
  Reading mapping("vllm-mapping", "p.jsonl");
  const std::string record =
      R"({"record_type":"eplb_initial_mapping","version":1,"num_redundant_experts":1,"num_slots":4,"initial_global_assignments":{"0":[0,1,2,0]}})";
  EXPECT_EQ(mapping(record).physical_to_logical, (std::vector<std::vector<int>>{{0, 1, 2, 0}}));
  expect_in("one such record", mapping.refused(record + "\n" + record));
  expect_in(
      "num_redundant_experts",
      mapping.refused(
          R"({"record_type":"eplb_initial_mapping","version":1,"num_redundant_experts":2,"num_slots":4,"initial_global_assignments":{"0":[0,1,2,0]}})"));
  mapping.options.dense_layers = {0, 1};
  EXPECT_EQ(mapping(record).layer_ids, std::vector<int>{2}) << "vLLM counts MoE layers only";

  Reading ascend("vllm-ascend", "p.json");
  ascend.options.topology.reset();
  const Plan plan = ascend(
      R"({"moe_layer_count":1,"layer_list":[{"layer_id":0,"device_count":2,"device_list":[{"device_id":0,"device_expert":[2,0]},{"device_id":1,"device_expert":[1,3]}]}]})");
  EXPECT_EQ(plan.physical_to_logical, (std::vector<std::vector<int>>{{2, 0, 1, 3}}));
  EXPECT_EQ(plan.ranks(), 2);
  expect_in(
      "device_expert",
      ascend.refused(
          R"({"moe_layer_count":1,"layer_list":[{"device_list":[{"device_expert":[2,0]},{"device_expert":[1]}]}]})"));

  Reading ranks("vllm-ep-ranks", "p.json");
  expect_in("--num-hidden-layers", ranks.refused(R"({"expert_to_ep_rank":[0,1,1,0]})"));
  ranks.options.hidden_layers = 3;
  EXPECT_EQ(ranks(R"({"expert_to_ep_rank":[0,1,1,0]})").physical_to_logical,
            (std::vector<std::vector<int>>(3, {0, 3, 1, 2})));
}

TEST(PlanFormats, ExflowsSolutionIsRead) {
  Reading read("exflow", "p.csv");
  read.options.top_k = 0;
  const std::string text = "Expert,Node\r\n0,1\r\n1,0\r\n3,0\r\n2,1\r\n";
  expect_in("--experts", read.refused(text));
  read.options.experts = 2;
  const Plan plan = read(text);
  EXPECT_EQ(plan.physical_to_logical, (std::vector<std::vector<int>>{{1, 0}, {1, 0}}));
  EXPECT_EQ(plan.top_k, 1);
  expect_in("again", read.refused("Expert,Node\n0,1\n0,0\n"));
  expect_in("0 to 1", read.refused("Expert,Node\n0,1\n2,0\n"));
  expect_in("two numbers", read.refused("Expert,Node\n0,1\n1;0\n"));
  expect_in("a multiple", read.refused("Expert,Node\n0,1\n1,0\n2,0\n"));
  expect_in("below 2", read.refused("Expert,Node\n0,1\n1,2\n"));
}

TEST(PlanFormats, ContradictionsOfSlotsAreRefused) {
  Reading read("eplb", "p.json");
  expect_in("a multiple of the 2 ranks", read.refused("[[0,1,2]]"));
  expect_in("expert 1 without owner", read.refused("[[0,2,2,0]]"));
  expect_in("slots of row 1", read.refused("[[0,1],[0,1,1,0]]"));
  expect_in("no MoE layer", read.refused("[]"));
  EXPECT_TRUE(read.notes.empty());
  EXPECT_EQ(read("[[0,0,2,1]]").physical_to_logical[0], (std::vector<int>{0, -1, 2, 1}))
      << "EPLB may put both copies on one rank";
  EXPECT_EQ(read.notes.size(), 1U);
  read.options.topology.reset();
  expect_in("--ranks", read.refused("[[0,1]]"));
  read.options.topology = Topology{{2}};
  read.options.top_k = 0;
  expect_in("--top-k", read.refused("[[0,1]]"));
  read.options.top_k = 2;
  read.options.layer_ids = {4, 5};
  expect_in("--layer-ids", read.refused("[[0,1]]"));
}

TEST(PlanFormats, DamagedFilesNeverCrash) {
  const ScratchFolder folder;
  Plan plan = contiguous_plan("m", {1, 3, 4}, 4, 2, Topology{{2}});
  const auto fuzz = [&](const PlanFormat& f, const std::string& file, int count) {
    f.write(folder / file, plan, options_for(plan));
    expect_no_damage_crashes(read_bytes(folder / file), file, false, count, [&](const std::filesystem::path& path) {
      if (f.recognises != nullptr) static_cast<void>(f.recognises(path));
      static_cast<void>(f.read(path, options_for(plan)));
    });
  };
  for (const PlanFormat& f : plan_formats())
    if (f.name != "coterie-plan") fuzz(f, file_of(f), 300);
  fuzz(format("eplb"), "p.npy", 300);
}

}  // namespace
}  // namespace coterie
