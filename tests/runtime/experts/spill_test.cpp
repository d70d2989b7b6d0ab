// Least-loaded dispatch: whatever is spilled, and wherever to, the results are plain dispatch's to the last bit.
#include "comm/mpi_communicator.hpp"
#include "runtime/families/family.hpp"
#include "tests/mpi_main.hpp"
#include "tests/runtime/test_job.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace coterie {
namespace {

/// Cuts every expert's rows into pieces for random ranks, also for those that it takes from and gives to at once.
DispatchPlan scattered(const DispatchLayer& layer, std::span<const std::int32_t> counts,
                       std::span<const std::uint8_t> cached) {
  DispatchPlan plan;
  plan.stayed = DispatchPlan::Stayed::spilled;
  std::mt19937 random(7);
  for (const std::int32_t n : counts) random.seed(random() ^ static_cast<unsigned>(n));
  for (int e = 0; e < layer.experts; ++e) {
    std::int64_t left = 0;
    for (int r = 0; r < layer.ranks; ++r) left += counts[static_cast<std::size_t>(r) * layer.experts + e];
    const auto* held = &layer.held[static_cast<std::size_t>(e) * layer.ranks];
    const int owner = static_cast<int>(std::find(held, held + layer.ranks, 1) - held);
    for (std::int64_t from = 0; left > 0;) {
      const auto rows = static_cast<std::int64_t>(1 + random() % static_cast<unsigned>(left));
      const int rank = static_cast<int>(random() % static_cast<unsigned>(layer.ranks));
      plan.parts.push_back({e, rank, from, from + rows});
      const bool has = held[rank] != 0 || (!cached.empty() && cached[static_cast<std::size_t>(e) * layer.ranks + rank]);
      const DispatchTransfer transfer{e, owner, rank};
      const auto& known = plan.transfers;
      if (!has && std::find(known.begin(), known.end(), transfer) == known.end()) plan.transfers.push_back(transfer);
      from += rows;
      left -= rows;
    }
  }
  return plan;
}

/// Weights and rows travel almost for nothing: whatever is uneven is spilled.
SpillOptions spilling(DispatchPolicy policy, std::int64_t cached_experts) {
  SpillOptions options;
  options.dispatch = {.policy = policy, .llep_min_rows = 1, .llep_threshold = 1.0};
  options.costs = {
      .row = 1000, .expert = 0, .row_inside = 1, .row_between = 2, .weights_inside = 3, .weights_between = 4};
  options.cache_bytes = cached_experts;
  options.expert_bytes = 1;
  return options;
}

SpillOptions scattering(std::int64_t cached_experts) {
  SpillOptions options = spilling(DispatchPolicy::least_loaded, cached_experts);
  options.planner = scattered;
  return options;
}

constexpr std::int64_t kAmple = 1 << 20;

class SpillTest : public testing::TestWithParam<const char*> {
 protected:
  std::filesystem::path model() const { return std::filesystem::path(COTERIE_FIXTURES) / "models" / GetParam(); }

  std::vector<Request> requests() const {
    std::vector<Request> out;
    for (std::size_t i = 0; i < std::min<std::size_t>(4, reference_.prompts.size()); ++i) {
      out.push_back(greedy_request(reference_, i));
      out.back().max_tokens = std::min(out.back().max_tokens, 8 - static_cast<int>(i));
    }
    return out;
  }
  JobResult run(const JobOptions& options) { return run_job(model(), requests(), options, comm_); }

  /// Runs it; to the last bit the same as `expected`.
  JobResult expect_same(const JobOptions& options, const JobResult& expected) {
    JobResult got = run(options);
    EXPECT_EQ(got.tokens, expected.tokens);
    EXPECT_TRUE(got.logits == expected.logits);
    EXPECT_EQ(got.trace.experts, expected.trace.experts);
    EXPECT_TRUE(comm_.rank() != 0 || got.metrics["dispatch"]["calls"]["spilled"] > 0);
    return got;
  }
  void expect_reference(const JobResult& result) const {
    if (comm_.rank() != 0) return;
    for (const Request& request : requests()) {
      auto expected = reference_.prompts[request.line - 1].greedy;
      expected.resize(request.max_tokens);
      EXPECT_EQ(result.tokens.at(request.custom_id), expected) << request.custom_id;
    }
  }

  // Two ranks a node: with one host, that is how a job has several. Pieces so small that weights come after the rows.
  MpiCommunicator transport_{test_session().job(), {.ranks_per_node = 2}, {.first = 4096, .weights = 8192}};
  CountingCommunicator comm_{transport_};
  Reference reference_ = read_reference(model());
};

struct Form {
  const char* name;
  Coherence coherence;
  bool replicate;
  int micro_batches;
};
constexpr Form kForms[] = {{"rank", Coherence::rank, false, 1},
                           {"rank in halves", Coherence::rank, false, 2},
                           {"node", Coherence::node, false, 1},
                           {"node replicated", Coherence::node, true, 1},
                           {"node in halves", Coherence::node, false, 2},
                           {"world", Coherence::world, false, 1},
                           {"world replicated", Coherence::world, true, 1},
                           {"world in halves", Coherence::world, false, 2},
                           {"world replicated in halves", Coherence::world, true, 2}};

JobOptions in_form(const Form& form, const SpillOptions& spill) {
  JobOptions options;
  options.coherence = form.coherence;
  options.scheduler.replicate = form.replicate;
  options.micro_batches = form.micro_batches;
  options.spill = spill;
  return options;
}

TEST_P(SpillTest, TheSameBitsInEveryForm) {
  JobOptions plain;
  plain.plan = random_plan(read_model_spec(model()), comm_.ranks(), 5, 0);
  const JobResult expected = run(plain);
  expect_reference(expected);
  const SpillOptions ways[] = {scattering(0), scattering(3), scattering(kAmple),
                               spilling(DispatchPolicy::least_loaded, 2), spilling(DispatchPolicy::llep, kAmple)};
  std::size_t way = 0;
  for (const Form& form : kForms) {
    for (int i = 0; i < 2; ++i, way = (way + 1) % std::size(ways)) {
      SCOPED_TRACE(std::string(form.name) + ", way " + std::to_string(way));
      JobOptions options = in_form(form, ways[way]);
      options.plan = plain.plan;
      expect_same(options, expected);
    }
  }
}

TEST_P(SpillTest, OneRankShortOfMemoryMakesAllForget) {
  JobOptions plain;
  const JobResult expected = run(plain);
  JobOptions options = plain;
  options.spill = scattering(kAmple);
  int asked = 0;
  options.short_of_memory = [&] { return comm_.rank() == comm_.ranks() - 1 && ++asked == 3; };
  const JobResult kept = run(in_form(kForms[0], scattering(kAmple)));
  const JobResult forgot = expect_same(options, expected);
  if (comm_.rank() != 0) return;
  EXPECT_GT(forgot.metrics["dispatch"]["cache_hits"], 0);
  EXPECT_GT(kept.metrics["dispatch"]["cache_hits"], forgot.metrics["dispatch"]["cache_hits"]);
}

TEST_P(SpillTest, AllExpertsOnOneRankAndAllButOneOverloaded) {
  const ModelSpec spec = read_model_spec(model());
  for (const bool all_but_one : {false, true}) {
    JobOptions plain;
    Plan plan = random_plan(spec, comm_.ranks(), 1, 0);
    plan.slots_per_rank = plan.experts;
    const int last = comm_.ranks() - 1;
    for (auto& layer : plan.physical_to_logical) {
      layer.assign(static_cast<std::size_t>(plan.experts) * comm_.ranks(), Plan::kEmptySlot);
      for (int e = 0; e < plan.experts; ++e) layer[(all_but_one ? e % last : last) * plan.experts + e] = e;
    }
    plain.plan = plan;
    const JobResult expected = run(plain);
    for (const DispatchPolicy policy : {DispatchPolicy::least_loaded, DispatchPolicy::llep}) {
      JobOptions options = in_form(all_but_one ? kForms[5] : kForms[0], spilling(policy, kAmple));
      options.plan = plan;
      const JobResult got = expect_same(options, expected);
      if (comm_.rank() != 0) continue;
      const auto& dispatch = got.metrics["dispatch"];
      EXPECT_LT(dispatch["heaviest_rank_rows_after"], dispatch["heaviest_rank_rows_before"]);
      EXPECT_GT(dispatch["experts_sent"], 0);
      EXPECT_EQ(dispatch["experts_sent"], dispatch["experts_taken"]);
    }
  }
}

TEST_P(SpillTest, OneRequestLeavesRanksWithoutRows) {
  JobOptions plain;
  const auto alone = std::vector<Request>{requests().back()};
  const JobResult expected = run_job(model(), alone, plain, comm_);
  for (const Form& form : {kForms[0], kForms[5], kForms[6]}) {
    const JobResult got = run_job(model(), alone, in_form(form, scattering(1)), comm_);
    EXPECT_EQ(got.tokens, expected.tokens);
    EXPECT_TRUE(got.logits == expected.logits);
  }
}

TEST_P(SpillTest, WhereNoSpillCanPayNothingIsGathered) {
  JobOptions options;
  options.spill = spilling(DispatchPolicy::least_loaded, kAmple);
  options.spill->costs.weights_inside = options.spill->costs.weights_between = std::int64_t{1} << 50;
  const JobResult got = run(options);
  std::int64_t gathers = 0;
  for (const auto& [key, traffic] : comm_.traffic()) gathers += key.collective == "counts" ? traffic.calls : 0;
  EXPECT_EQ(gathers, 0);
  expect_reference(got);
  EXPECT_TRUE(comm_.rank() != 0 || got.metrics["dispatch"]["calls"]["skipped"] > 0);
}

TEST_P(SpillTest, WherePlansGainNothingFewerAndFewerAreMade) {
  JobOptions options;
  options.spill = spilling(DispatchPolicy::least_loaded, kAmple);
  options.spill->planner = [](const auto&, auto, auto) {
    DispatchPlan plan;
    plan.stayed = DispatchPlan::Stayed::not_worth_it;
    return plan;
  };
  const JobResult got = run(options);
  expect_reference(got);
  if (comm_.rank() != 0) return;
  const auto& calls = got.metrics["dispatch"]["calls"];
  EXPECT_GT(calls["not_worth_it"], 0);
  EXPECT_GT(calls["paused"], calls["not_worth_it"]);
}

/// All of the models: which of the forms it is differs from one to the next.
class SpillOfEveryModelTest : public SpillTest {};

TEST_P(SpillOfEveryModelTest, TheSameBitsWithReplicas) {
  JobOptions plain;
  plain.plan = random_plan(read_model_spec(model()), comm_.ranks(), 6, 0.3);
  const JobResult expected = run(plain);
  expect_reference(expected);
  for (const SpillOptions& spill : {scattering(2), spilling(DispatchPolicy::least_loaded, kAmple)}) {
    JobOptions options = plain;
    options.spill = spill;
    expect_same(options, expected);
  }
  // Rows that follow their experts use other replicas than at home: the sums are still added up as home would.
  for (const Form& form : {kForms[5], kForms[6], kForms[comm_.ranks() % 2 == 0 ? 2 : 7]}) {
    SCOPED_TRACE(form.name);
    JobOptions options = in_form(form, scattering(3));
    options.plan = plain.plan;
    JobOptions unspilled = options;
    unspilled.spill.reset();
    const JobResult expected_here = run(unspilled);
    expect_reference(expected_here);
    expect_same(options, expected_here);
  }
}

const char* const kFew[] = {"mixtral", "qwen2-moe", "gpt-oss", "deepseek-v3"};
const char* const kAll[] = {
    "mixtral",          "mixtral-variants", "olmoe",       "olmoe-top1",   "qwen2-moe",   "qwen3-moe", "granitemoe",
    "granitemoeshared", "gpt-oss-mxfp4",    "deepseek-v2", "deepseek-v3",  "dense-ends",  "dots1",     "ernie4-5-moe",
    "glm4-moe",         "minimax-m2",       "phimoe",      "trained/top1", "trained/top2"};

std::string name_of_test(const testing::TestParamInfo<const char*>& test) {
  std::string name = test.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Models, SpillTest, testing::ValuesIn(kFew), name_of_test);
INSTANTIATE_TEST_SUITE_P(Models, SpillOfEveryModelTest, testing::ValuesIn(kAll), name_of_test);

}  // namespace
}  // namespace coterie
