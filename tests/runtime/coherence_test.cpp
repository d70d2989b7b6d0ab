// Context coherence: the same results as plain expert parallelism, with fewer exchanges.
#include "comm/communicator.hpp"
#include "runtime/family.hpp"
#include "tests/mpi_main.hpp"
#include "tests/runtime/test_job.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

namespace coterie {
namespace {

struct Form {
  const char* model;
  Coherence coherence;
  bool replicate;
  int micro_batches;
};

std::ostream& operator<<(std::ostream& out, const Form& form) {
  return out << form.model;
}

class CoherenceTest : public testing::TestWithParam<Form> {
 protected:
  std::filesystem::path model() const { return std::filesystem::path(COTERIE_FIXTURES) / "models" / GetParam().model; }
  JobOptions options() const {
    JobOptions options;
    options.coherence = GetParam().coherence;
    options.scheduler.replicate = GetParam().replicate;
    options.micro_batches = GetParam().micro_batches;
    return options;
  }
  /// Of different lengths, so that sequences end at different times.
  std::vector<Request> requests() const {
    std::vector<Request> out;
    for (std::size_t i = 0; i < std::min<std::size_t>(4, reference_.prompts.size()); ++i) {
      out.push_back(greedy_request(reference_, i));
      out.back().max_tokens = 20 - static_cast<int>(5 * (i % 3));
    }
    return out;
  }
  /// To the last bit: partial sums are added in the order of the ranks, wherever the row is.
  void expect_same_as_plain(const std::vector<Request>& requests, const JobOptions& coherent) {
    JobOptions plain = coherent;
    plain.coherence = Coherence::rank;
    plain.scheduler.replicate = false;
    plain.micro_batches = 1;
    const JobResult expected = run_job(model(), requests, plain, comm_);
    const JobResult got = run_job(model(), requests, coherent, comm_);
    EXPECT_EQ(got.tokens, expected.tokens);
    EXPECT_TRUE(got.logits == expected.logits);
    EXPECT_EQ(got.trace.experts, expected.trace.experts);
    EXPECT_EQ(got.trace.position, expected.trace.position);
  }

  void expect_reference(const JobResult& result) const {
    if (comm_.rank() != 0) return;
    for (const Request& request : requests()) {
      auto expected = reference_.prompts[request.line - 1].greedy;
      expected.resize(request.max_tokens);
      EXPECT_EQ(result.tokens.at(request.custom_id), expected) << request.custom_id;
    }
  }

  // Two ranks a node: with one host, that is how a job has several.
  std::unique_ptr<Communicator> transport_ = make_mpi_communicator(test_session(), {.ranks_per_node = 2});
  CountingCommunicator comm_{*transport_};
  Reference reference_ = read_reference(model());
};

TEST_P(CoherenceTest, TheReferencesGreedyText) {
  expect_reference(run_job(model(), requests(), options(), comm_));
}

TEST_P(CoherenceTest, SameAsPlain) {
  expect_same_as_plain(requests(), options());
}

TEST_P(CoherenceTest, SameAsPlainInSmallChunks) {
  JobOptions chunked = options();
  chunked.scheduler.max_batch_tokens = 6;
  chunked.scheduler.max_batch_size = 2;
  expect_same_as_plain(requests(), chunked);
}

TEST_P(CoherenceTest, SameAsPlainWithRandomPlans) {
  JobOptions planned = options();
  planned.plan = random_plan(read_model_spec(model()), comm_.ranks(), 21, 0);
  expect_same_as_plain(requests(), planned);
}

TEST_P(CoherenceTest, TheReferencesGreedyTextWithReplicas) {
  // Which replica computes depends on where the row is, and with it the order of the sums: equal but for rounding.
  JobOptions planned = options();
  planned.plan = random_plan(read_model_spec(model()), comm_.ranks(), 22);
  expect_reference(run_job(model(), requests(), planned, comm_));
}

TEST_P(CoherenceTest, OneRequestOnly) {
  expect_same_as_plain({requests().back()}, options());
}

TEST_P(CoherenceTest, AllExpertsOnTheLastRank) {
  JobOptions skewed = options();
  Plan plan = random_plan(read_model_spec(model()), comm_.ranks(), 1, 0);
  plan.slots_per_rank = plan.experts;
  for (auto& layer : plan.physical_to_logical) {
    layer.assign(static_cast<std::size_t>(plan.experts) * comm_.ranks(), Plan::kEmptySlot);
    for (int e = 0; e < plan.experts; ++e) layer[layer.size() - plan.experts + e] = e;
  }
  skewed.plan = plan;
  expect_same_as_plain(requests(), skewed);
}

TEST_P(CoherenceTest, OneExchangeALayerInDecodeWhereNoPartialSumsAreSent) {
  const ModelSpec spec = read_model_spec(model());
  if (GetParam().micro_batches == 2) return;  // has a test of its own
  const bool all_here = GetParam().coherence == Coherence::world || comm_.ranks() == 2;
  if (!all_here || !(spec.top_k() == 1 || GetParam().replicate)) return;  // then a second one is needed now and then
  Request request = greedy_request(reference_, 1);
  request.max_tokens = 16;
  const JobResult result = run_job(model(), {request}, options(), comm_);
  const auto steps_with_rows = static_cast<std::int64_t>(request.max_tokens);  // one of them reads the prompt
  for (int layer = 0; layer < spec.moe_layers(); ++layer) {
    std::int64_t exchanges = 0;
    for (const auto& [key, traffic] : comm_.traffic()) {
      if (key.layer != layer) continue;
      EXPECT_EQ(key.kind, "exchange");
      exchanges += traffic.calls;
    }
    EXPECT_LE(exchanges, result.steps + 1) << "layer " << layer;  // the step that reads the prompt may take two
    EXPECT_GE(exchanges, steps_with_rows) << "layer " << layer;
  }
}

TEST_P(CoherenceTest, OneExchangeALayerAndMicroBatch) {
  if (GetParam().micro_batches != 2) return;
  const ModelSpec spec = read_model_spec(model());
  const int layers = spec.moe_layers();
  const JobResult result = run_job(model(), requests(), options(), comm_);
  std::map<std::pair<int, std::string>, std::int64_t> calls;
  for (const auto& [key, traffic] : comm_.traffic()) {
    if (key.layer >= 0) calls[{key.layer, key.collective}] += traffic.calls;
  }
  for (const auto& [place, n] : calls) {
    const auto& [layer, collective] = place;
    if (collective == "dispatch") {
      EXPECT_EQ(n, 2 * result.steps) << "layer " << layer;
    } else {  // the last half's partial sums have nothing left to ride with
      EXPECT_EQ(layer, layers - 1);
      EXPECT_LE(n, result.steps);
    }
  }
}

std::vector<Form> forms() {
  std::vector<Form> out;
  for (const char* model : {"mixtral", "olmoe", "olmoe-top1", "qwen2-moe", "qwen3-moe", "granitemoe", "gpt-oss",
                            "deepseek-v3", "trained/top2"}) {
    for (const Coherence coherence : {Coherence::node, Coherence::world}) {
      out.push_back({model, coherence, false, 1});
      out.push_back({model, coherence, true, 1});
      out.push_back({model, coherence, false, 2});
    }
  }
  return out;
}

INSTANTIATE_TEST_SUITE_P(Forms, CoherenceTest, testing::ValuesIn(forms()), [](const auto& test) {
  std::string name = std::string(test.param.model) + (test.param.coherence == Coherence::node ? "_node" : "_world") +
                     (test.param.replicate ? "_replicate" : "_follow") +
                     (test.param.micro_batches == 2 ? "_in_halves" : "");
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
});

}  // namespace
}  // namespace coterie
