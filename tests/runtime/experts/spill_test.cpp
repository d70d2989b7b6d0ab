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

using Planner = decltype(SpillOptions::planner);

/// Cuts every expert's rows into pieces: `cut` says how many of so many that are left go to which rank.
template <class Cut>
DispatchPlan in_pieces(const DispatchLayer& layer, std::span<const std::int32_t> counts,
                       std::span<const std::uint8_t> cached, Cut cut) {
  DispatchPlan plan;
  plan.stayed = DispatchPlan::Stayed::spilled;
  plan.before = std::int64_t{1} << 50;  // it pays each time
  for (int e = 0; e < layer.experts; ++e) {
    std::int64_t left = 0;
    for (int r = 0; r < layer.ranks; ++r) left += counts[static_cast<std::size_t>(r) * layer.experts + e];
    const auto* held = &layer.held[static_cast<std::size_t>(e) * layer.ranks];
    const int owner = static_cast<int>(std::find(held, held + layer.ranks, 1) - held);
    for (std::int64_t from = 0; left > 0;) {
      const auto [rows, rank] = cut(left);
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

using Piece = std::pair<std::int64_t, int>;

/// Random pieces for random ranks, also for those that it takes from and gives to at once.
DispatchPlan scattered(const DispatchLayer& layer, std::span<const std::int32_t> counts,
                       std::span<const std::uint8_t> cached) {
  std::mt19937 random(7);
  for (const std::int32_t n : counts) random.seed(random() ^ static_cast<unsigned>(n));
  return in_pieces(layer, counts, cached, [&](std::int64_t left) -> Piece {
    const auto rows = static_cast<std::int64_t>(1 + random() % static_cast<unsigned>(left));
    return {rows, static_cast<int>(random() % static_cast<unsigned>(layer.ranks))};
  });
}

/// Every expert on every rank, as far as it has rows.
DispatchPlan everywhere(const DispatchLayer& layer, std::span<const std::int32_t> counts,
                        std::span<const std::uint8_t> cached) {
  int rank = 0;
  return in_pieces(layer, counts, cached, [&](std::int64_t) -> Piece { return {1, rank++ % layer.ranks}; });
}

/// All rows on the last rank; the others compute nothing.
DispatchPlan piled(const DispatchLayer& layer, std::span<const std::int32_t> counts,
                   std::span<const std::uint8_t> cached) {
  return in_pieces(layer, counts, cached, [&](std::int64_t left) -> Piece { return {left, layer.ranks - 1}; });
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

SpillOptions planning(const Planner& planner, std::int64_t cached_experts) {
  SpillOptions options = spilling(DispatchPolicy::least_loaded, cached_experts);
  options.planner = planner;
  return options;
}
SpillOptions scattering(std::int64_t cached_experts) {
  return planning(scattered, cached_experts);
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
  const SpillOptions ways[] = {scattering(0),
                               planning(everywhere, 1),
                               scattering(kAmple),
                               spilling(DispatchPolicy::least_loaded, 2),
                               planning(piled, 2),
                               scattering(3),
                               spilling(DispatchPolicy::llep, kAmple)};
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

TEST_P(SpillTest, TheSameBitsWhereTimeDecidesWhenToPlan) {
  JobOptions options;
  const JobResult expected = run(options);
  options.spill = spilling(DispatchPolicy::least_loaded, 2);
  options.spill->costs.row = 1'000'000;  // so that some plans pay and others don't
  options.spill->measures_gather = true;
  expect_same(options, expected);
}

TEST_P(SpillTest, NothingToDoAtAll) {
  for (const SpillOptions& spill : {scattering(1), spilling(DispatchPolicy::llep, 0)}) {
    for (const Form& form : {kForms[0], kForms[2], kForms[8]}) {
      EXPECT_TRUE(run_job(model(), {}, in_form(form, spill), comm_).tokens.empty());
    }
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

TEST_P(SpillTest, LlepPlansEveryCallWhateverItCosts) {
  JobOptions options;
  options.spill = spilling(DispatchPolicy::llep, kAmple);
  options.spill->dispatch.llep_threshold = 100;
  options.spill->counts_gather = std::int64_t{1} << 50;
  const JobResult got = run(options);
  expect_reference(got);
  if (comm_.rank() != 0) return;
  const auto& calls = got.metrics["dispatch"]["calls"];
  EXPECT_GT(calls["balanced"], 0);
  EXPECT_EQ(calls["paused"], 0);
}

const char* const kFew[] = {"mixtral", "qwen2-moe", "gpt-oss", "deepseek-v3"};
const char* const kAll[] = {
    "mixtral",          "mixtral-variants", "olmoe",       "olmoe-top1",   "qwen2-moe",   "qwen3-moe", "granitemoe",
    "granitemoeshared", "gpt-oss-mxfp4",    "deepseek-v2", "deepseek-v3",  "dense-ends",  "dots1",     "ernie4-5-moe",
    "glm4-moe",         "minimax-m2",       "phimoe",      "trained/top1", "trained/top2"};

/// All of the models: which of the forms it is differs from one to the next.
class SpillOfEveryModelTest : public SpillTest {
 protected:
  std::vector<Form> forms() const {
    const auto model = std::find(std::begin(kAll), std::end(kAll), std::string(GetParam())) - std::begin(kAll);
    std::vector<Form> out;
    for (const std::ptrdiff_t i : {1, 4, 6}) out.push_back(kForms[(model + comm_.ranks() + i) % std::ssize(kForms)]);
    return out;
  }
};

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
  for (const Form& form : forms()) {
    SCOPED_TRACE(form.name);
    JobOptions unspilled = in_form(form, {});
    unspilled.spill.reset();
    unspilled.plan = plain.plan;
    const JobResult expected_here = run(unspilled);
    expect_reference(expected_here);
    JobOptions options = in_form(form, scattering(3));
    options.plan = plain.plan;
    expect_same(options, expected_here);
  }
}

TEST_P(SpillOfEveryModelTest, TheSameBitsWithoutReplicas) {
  const ModelSpec spec = read_model_spec(model());
  JobOptions plain;
  plain.plan = random_plan(spec, comm_.ranks(), 8, 0);
  const JobResult expected = run(plain);
  expect_reference(expected);
  const SpillOptions ways[] = {planning(everywhere, kAmple), spilling(DispatchPolicy::least_loaded, 1),
                               spilling(DispatchPolicy::llep, 2)};
  std::size_t way = 0;
  for (const Form& form : forms()) {
    SCOPED_TRACE(form.name);
    JobOptions options = in_form(form, ways[way++]);
    options.plan = plain.plan;
    expect_same(options, expected);
  }
}

TEST(Spill, RanksThatKnowTheCachesOtherwiseStopThere) {
  const auto comm = make_mpi_communicator(test_session(), {});
  const auto device = make_cpu_device({DType::f32, 1});
  const int ranks = comm->ranks();
  const auto size = static_cast<std::size_t>(ranks);
  std::vector<std::uint8_t> held(2 * size, 0);  // of two experts: both on rank 0
  held[0] = held[size] = 1;
  const DispatchLayer layer(std::vector<int>(size, 0), std::vector<int>(2 * size, 0), held);
  Spill spill(planning(piled, 4), {layer}, comm->rank(), *device);
  const std::vector<std::int32_t> mine{5, 1};
  const std::vector<std::int32_t> all = spill.gather(*comm, mine, {"counts", 3, 1});
  ASSERT_EQ(all.size(), 2 * size);
  for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], mine[i % 2]);
  if (comm->rank() == 1) {
    SpillCall call;
    (void)spill.plan(0, all, call);
  }
  try {
    (void)spill.gather(*comm, mine, {"counts", 3, 2});
    FAIL() << "no CommError";
  } catch (const CommError& e) {
    const std::string text = e.what();
    EXPECT_EQ(text.find("counts at layer 3, step 2: rank "), 0U) << text;
    EXPECT_NE(text.find(" knows the spill caches otherwise than rank "), std::string::npos) << text;
  }
}

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
