// Whole models on ranks against the reference outputs of another implementation.
#include "comm/communicator.hpp"
#include "runtime/families/family.hpp"
#include "tests/mpi_main.hpp"
#include "tests/runtime/test_job.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

namespace coterie {
namespace {

constexpr float kLogitTolerance = 2e-4F;
constexpr float kGateTolerance = 2e-3F;  // gates are recorded in half precision

class ReferenceTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!on_all_ranks(test_device_is_here())) GTEST_SKIP() << "no GPU";
  }

  std::filesystem::path model() const { return std::filesystem::path(COTERIE_FIXTURES) / "models" / GetParam(); }

  std::vector<Request> requests() const {
    std::vector<Request> out;
    for (std::size_t i = 0; i < reference_.prompts.size(); ++i) out.push_back(greedy_request(reference_, i));
    return out;
  }

  /// Compares what rank 0 knows of prompt `index` with the reference.
  void expect_equal(const JobResult& result, std::size_t index) const {
    if (comm_.rank() != 0) return;
    const Reference::Prompt& expected = reference_.prompts[index];
    const std::string id = "p" + std::to_string(index);
    ASSERT_TRUE(result.tokens.contains(id)) << id;
    EXPECT_EQ(result.tokens.at(id), expected.greedy) << id;

    const auto& logits = result.logits.at(id);
    ASSERT_EQ(logits.size(), expected.logits.size()) << id;
    float worst = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) worst = std::max(worst, std::abs(logits[i] - expected.logits[i]));
    EXPECT_LT(worst, kLogitTolerance) << id;

    const auto first = std::find(result.trace.sequence.begin(), result.trace.sequence.end(), index + 1);
    ASSERT_NE(first, result.trace.sequence.end()) << id;
    const std::size_t row = expected.experts.size() / expected.tokens.size();
    const auto at = static_cast<std::size_t>(first - result.trace.sequence.begin()) * row;
    EXPECT_TRUE(std::equal(expected.experts.begin(), expected.experts.end(), &result.trace.experts[at])) << id;
    for (std::size_t i = 0; i < expected.gates.size(); ++i) {
      ASSERT_NEAR(result.trace.weights[at + i], expected.gates[i], kGateTolerance) << id << " at " << i;
    }
  }

  void expect_all_equal(const JobResult& result) const {
    for (std::size_t i = 0; i < reference_.prompts.size(); ++i) expect_equal(result, i);
  }

  std::unique_ptr<Communicator> transport_ = make_test_transport();
  CountingCommunicator comm_{*transport_};
  Reference reference_ = read_reference(model());
};

TEST_P(ReferenceTest, AllPromptsInOneBatch) {
  expect_all_equal(run_job(model(), requests(), {}, comm_));
}

TEST_P(ReferenceTest, OneByOne) {
  JobOptions options;
  options.scheduler.max_batch_size = 1;
  expect_all_equal(run_job(model(), requests(), options, comm_));
}

TEST_P(ReferenceTest, InChunks) {
  JobOptions options;
  options.scheduler.max_batch_tokens = 5;
  expect_all_equal(run_job(model(), requests(), options, comm_));
}

TEST_P(ReferenceTest, WithLittleKvMemory) {
  JobOptions options;
  for (const Request& r : requests()) {
    options.kv_blocks = std::max(r.line == 1 ? 0 : options.kv_blocks, KvPool::blocks_for(Scheduler::kv_tokens(r)));
  }
  expect_all_equal(run_job(model(), requests(), options, comm_));
}

TEST_P(ReferenceTest, WithRandomPlans) {
  for (const std::uint64_t seed : {11, 12, 13}) {
    SCOPED_TRACE("plan of seed " + std::to_string(seed));
    JobOptions options;
    options.plan = random_plan(read_model_spec(model()), comm_.ranks(), seed);
    expect_all_equal(run_job(model(), requests(), options, comm_));
  }
}

TEST_P(ReferenceTest, TwoExchangesPerLayerAndStep) {
  const JobResult result = run_job(model(), requests(), {}, comm_);
  const int layers = read_model_spec(model()).moe_layers();
  std::map<std::pair<int, std::string>, std::int64_t> calls;
  for (const auto& [key, traffic] : comm_.traffic()) {
    if (key.layer < 0) continue;
    EXPECT_EQ(key.kind, "exchange");
    calls[{key.layer, key.collective}] += traffic.calls;
  }
  EXPECT_GT(result.steps, 0);
  EXPECT_EQ(calls.size(), 2U * layers);
  for (const auto& [place, n] : calls) EXPECT_EQ(n, result.steps) << place.second << " at layer " << place.first;
}

TEST_P(ReferenceTest, TheSameBitsWhateverTheBatchAndTheHome) {
  // Row invariance, end to end: batching, chunking and the order of the requests change nothing, to the last bit.
  const JobResult together = run_job(model(), requests(), {}, comm_);
  JobOptions chunked;
  chunked.scheduler.max_batch_tokens = 3;
  auto reversed = requests();
  std::reverse(reversed.begin(), reversed.end());
  const JobResult apart = run_job(model(), reversed, chunked, comm_);
  EXPECT_EQ(together.tokens, apart.tokens);
  EXPECT_EQ(together.logits, apart.logits);
  EXPECT_EQ(together.trace.experts, apart.trace.experts);
}

TEST_P(ReferenceTest, TheSameBitsWhereNobodyWatchesTheRouter) {
  const JobResult watched = run_job(model(), requests(), {}, comm_);
  JobOptions alone;
  alone.watched = false;
  const JobResult result = run_job(model(), requests(), alone, comm_);
  EXPECT_EQ(result.tokens, watched.tokens);
  EXPECT_EQ(result.logits, watched.logits);
  if (comm_.rank() != 0) return;
  for (const char* kind : {"prefill", "decode"}) {
    for (const char* field : {"steps", "tokens", "dense_rows", "moved_rows", "expert_rows"}) {
      EXPECT_EQ(result.metrics[kind][field], watched.metrics[kind][field]) << kind << ' ' << field;
    }
  }
  const auto per_layer = [](const JobResult& of) { return of.metrics["ranks"][0]["expert_rows_per_layer"]; };
  EXPECT_EQ(per_layer(result), per_layer(watched));
}

/// Families and variants that differ in how they are put together: one batch in every form of coherence.
class VariantTest : public ReferenceTest {};

TEST_P(VariantTest, InEveryForm) {
  const auto job = [](Coherence coherence, bool replicate, int micro_batches) {
    JobOptions options;
    options.coherence = coherence;
    options.scheduler.replicate = replicate;
    options.micro_batches = micro_batches;
    return options;
  };
  for (const JobOptions& options : {job(Coherence::rank, false, 1), job(Coherence::world, false, 1),
                                    job(Coherence::world, true, 1), job(Coherence::world, false, 2)}) {
    SCOPED_TRACE(options.scheduler.replicate ? "replicate" : std::to_string(options.micro_batches));
    JobOptions planned = options;
    planned.plan = random_plan(read_model_spec(model()), comm_.ranks(), 31);
    expect_all_equal(run_job(model(), requests(), planned, comm_));
  }
}

std::string name_of_test(const testing::TestParamInfo<const char*>& test) {
  std::string name = test.param;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Variants, VariantTest,
                         testing::Values("dense-ends", "dots1", "ernie4-5-moe", "glm4-moe", "granitemoeshared",
                                         "minimax-m2", "mixtral-variants", "phimoe"),
                         name_of_test);
INSTANTIATE_TEST_SUITE_P(Models, ReferenceTest,
                         testing::Values("mixtral", "mixtral-sharded", "olmoe", "olmoe-top1", "qwen2-moe", "qwen3-moe",
                                         "granitemoe", "gpt-oss", "gpt-oss-mxfp4", "deepseek-v2", "deepseek-v3",
                                         "deepseek-v3-fp8", "trained/top1", "trained/top2"),
                         name_of_test);

}  // namespace
}  // namespace coterie
