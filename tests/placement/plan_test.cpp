#include "placement/plan.hpp"

#include "placement/files/digest.hpp"
#include "placement/input_error.hpp"
#include "tests/placement/mutate.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <limits>

namespace coterie {
namespace {

/// 2 layers, 5 experts on 2 + 1 ranks of 2 slots; layer 1 has a replica.
Plan small_plan() {
  Plan plan;
  plan.model = "a/model";
  plan.layer_ids = {1, 3};
  plan.experts = 5;
  plan.top_k = 2;
  plan.topology.ranks_per_node = {2, 1};
  plan.slots_per_rank = 2;
  plan.physical_to_logical = {{0, 1, 2, 3, 4, -1}, {4, 3, 2, 1, 0, 4}};
  Certificate certificate;
  certificate.objective = "affinity";
  certificate.domain = "node";
  certificate.price_inside_node = 2;
  certificate.price_between_nodes = 4;
  certificate.balance = 1.5;
  certificate.top = 1;
  certificate.by_gate = true;
  certificate.holdout = .2;
  certificate.value = .5;
  certificate.baseline = .25;
  certificate.bound = .75;
  certificate.gap = .5;
  certificate.bound_kind = certificate.solver = "dp";
  certificate.seconds = 1.5;
  certificate.seed = 42;
  plan.certificate = certificate;
  plan.sources = {{"t.safetensors", "sha256:00", 2, 10, 20}};
  return plan;
}

std::string refusal(const std::function<void(Plan&)>& damage) {
  Plan plan = small_plan();
  damage(plan);
  try {
    validate(plan, "p.json");
    return "";
  } catch (const InputError& e) {
    return e.what();
  }
}

TEST(Plan, WhatIsWrittenIsRead) {
  const ScratchFolder folder;
  Plan plan = small_plan();
  write_plan(folder / "p.json", plan);
  const Plan copy = read_plan(folder / "p.json");
  EXPECT_EQ(copy.model, plan.model);
  EXPECT_EQ(copy.layer_ids, plan.layer_ids);
  EXPECT_EQ(copy.experts, 5);
  EXPECT_EQ(copy.top_k, 2);
  EXPECT_EQ(copy.topology, plan.topology);
  EXPECT_EQ(copy.slots_per_rank, 2);
  EXPECT_EQ(copy.physical_to_logical, plan.physical_to_logical);
  ASSERT_TRUE(copy.certificate);
  EXPECT_EQ(copy.certificate->objective, "affinity");
  EXPECT_EQ(copy.certificate->domain, "node");
  EXPECT_EQ(copy.certificate->price_inside_node, 2);
  EXPECT_EQ(copy.certificate->price_between_nodes, 4);
  EXPECT_EQ(copy.certificate->balance, 1.5);
  EXPECT_EQ(copy.certificate->top, 1);
  EXPECT_TRUE(copy.certificate->by_gate);
  EXPECT_EQ(copy.certificate->holdout, .2);
  EXPECT_EQ(copy.certificate->value, .5);
  EXPECT_EQ(copy.certificate->baseline, .25);
  EXPECT_EQ(copy.certificate->bound, .75);
  EXPECT_EQ(copy.certificate->gap, .5);
  EXPECT_EQ(copy.certificate->seconds, 1.5);
  EXPECT_EQ(copy.certificate->seed, 42U);
  ASSERT_EQ(copy.sources.size(), 1U);
  EXPECT_EQ(copy.sources[0].digest, "sha256:00");
  EXPECT_EQ(copy.sources[0].weight, 2);
  EXPECT_EQ(copy.sources[0].first, 10);
  EXPECT_EQ(copy.sources[0].count, 20);

  plan.certificate->bound_kind.clear();
  plan.topology.ranks_per_node = {1, 1, 1};
  write_plan(folder / "p.json", plan);
  EXPECT_NE(read_bytes(folder / "p.json").find(R"("bound":null,"gap":null,"bound_kind":"none")"), std::string::npos);
  EXPECT_EQ(read_plan(folder / "p.json").certificate->bound_kind, "");
  EXPECT_EQ(read_plan(folder / "p.json").topology, plan.topology);
  EXPECT_EQ(folder.files(), 1U);
}

TEST(Plan, OwnersAreTheRanksThatHoldTheExpert) {
  const Plan plan = small_plan();
  EXPECT_EQ(plan.owners(0, 4), std::vector<int>{2});
  EXPECT_EQ(plan.owners(1, 4), (std::vector<int>{0, 2}));
}

TEST(Plan, ContiguousDealsInOrder) {
  const Plan plan = contiguous_plan("m", {0, 2}, 8, 2, Topology{{3}});
  EXPECT_EQ(plan.slots_per_rank, 3);
  EXPECT_EQ(plan.physical_to_logical[1], (std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, -1}));
  validate(plan, "");
  const Plan more = contiguous_plan("m", {0}, 2, 1, Topology{{2, 2}});
  EXPECT_EQ(more.physical_to_logical[0], (std::vector<int>{0, 1, -1, -1})) << "more ranks than experts";
  validate(more, "");
}

TEST(Plan, ContradictionsAreRefused) {
  EXPECT_EQ(refusal([](Plan&) {}), "");
  const std::vector<std::pair<std::string, std::function<void(Plan&)>>> cases{
      {"expert 2 without owner", [](Plan& p) { p.physical_to_logical[0][2] = -1; }},
      {"physical_to_logical[1][3]", [](Plan& p) { p.physical_to_logical[1][3] = 5; }},
      {"physical_to_logical[1][3]", [](Plan& p) { p.physical_to_logical[1][3] = -2; }},
      {"expert 4 again on rank 2", [](Plan& p) { p.physical_to_logical[1][4] = 4; }},
      {"physical_to_logical[0]", [](Plan& p) { p.physical_to_logical[0].push_back(-1); }},
      {"physical_to_logical", [](Plan& p) { p.physical_to_logical.pop_back(); }},
      {"layer_ids",
       [](Plan& p) {
         p.layer_ids = {3, 1};
       }},
      {"topology", [](Plan& p) { p.topology.ranks_per_node = {}; }},
      {"ranks_per_node",
       [](Plan& p) {
         p.topology.ranks_per_node = {3, 0};
       }},
      {"top_k", [](Plan& p) { p.top_k = 6; }},
      {"slots_per_rank", [](Plan& p) { p.slots_per_rank = 0; }},
  };
  for (const auto& [part, damage] : cases) {
    const std::string message = refusal(damage);
    EXPECT_NE(message.find("p.json"), std::string::npos) << part << " -> " << message;
    EXPECT_NE(message.find(part), std::string::npos) << part << " -> " << message;
  }
}

TEST(Plan, DamagedFilesNeverCrash) {
  const ScratchFolder folder;
  write_plan(folder / "good", small_plan());
  std::string good = read_bytes(folder / "good");
  good.pop_back();  // the newline: the file is as good without it
  expect_no_damage_crashes(good, "p.json", true, 5000,
                           [](const std::filesystem::path& path) { static_cast<void>(read_plan(path)); });
}

TEST(Plan, AnOutputThatCannotBeWrittenIsRefused) {
  const ScratchFolder folder;
  EXPECT_THROW(write_plan(folder / "no" / "p.json", small_plan()), InputError);
  EXPECT_THROW(write_plan("/dev/full", small_plan()), InputError);
}

TEST(Digest, MatchesThePublishedExamples) {
  const auto of = [](std::string_view text) { return sha256_of(std::as_bytes(std::span(text))); };
  EXPECT_EQ(of(""), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(of("abc"), "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "sha256:248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(of(std::string(1000000, 'a')), "sha256:cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Digest, PiecesAndFilesGiveTheSame) {
  const ScratchFolder folder;
  std::string text;
  for (int n = 0; n < 200; ++n) {
    Sha256 hash;
    for (std::size_t i = 0; i < text.size(); i += 7)
      hash.update(std::as_bytes(std::span(text)).subspan(i, std::min<std::size_t>(7, text.size() - i)));
    EXPECT_EQ(hash.finish(), sha256_of(std::as_bytes(std::span(text)))) << n;
    text += static_cast<char>(n);
  }
  write_bytes(folder / "f", text);
  EXPECT_EQ(sha256_of_file(folder / "f"), sha256_of(std::as_bytes(std::span(text))));
  EXPECT_THROW(static_cast<void>(sha256_of_file(folder / "none")), InputError);
}

}  // namespace
}  // namespace coterie
