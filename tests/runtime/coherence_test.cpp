// Context coherence: the same results as plain expert parallelism, with fewer exchanges.
#include "comm/communicator.hpp"
#include "runtime/families/family.hpp"
#include "tests/mpi_main.hpp"
#include "tests/runtime/test_job.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>

namespace coterie {
namespace {

const std::filesystem::path kFixtures = COTERIE_FIXTURES;

struct Form {
  std::string model;
  Coherence coherence;
  bool replicate;
  int micro_batches;
};

std::ostream& operator<<(std::ostream& out, const Form& form) {
  return out << form.model;
}

/// One model in one form.
class CoherenceTest : public testing::TestWithParam<Form> {
 protected:
  std::filesystem::path model() const { return kFixtures / "models" / GetParam().model; }
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
      out.back().max_tokens = 12 - static_cast<int>(3 * (i % 3));
    }
    return out;
  }

  /// What plain expert parallelism makes of the same batch. All forms of a model share it: `batch` names it.
  const JobResult& plain(const std::string& batch, const std::vector<Request>& requests, JobOptions options) {
    static std::map<std::string, JobResult> known;
    const auto [found, added] = known.try_emplace(GetParam().model + " " + batch);
    if (added) {
      options.coherence = Coherence::rank;
      options.scheduler.replicate = false;
      options.micro_batches = 1;
      found->second = run_job(model(), requests, options, comm_);
    }
    return found->second;
  }
  /// To the last bit: partial sums are added in the order of the ranks, wherever the row is.
  void expect_same_as_plain(const std::string& batch, const std::vector<Request>& requests, const JobOptions& coherent,
                            CountingCommunicator& comm) {
    const JobResult& expected = plain(batch, requests, coherent);
    const JobResult got = run_job(model(), requests, coherent, comm);
    EXPECT_EQ(got.tokens, expected.tokens);
    EXPECT_TRUE(got.logits == expected.logits);
    EXPECT_EQ(got.trace.experts, expected.trace.experts);
    EXPECT_EQ(got.trace.position, expected.trace.position);
    last_ = got;
  }
  void expect_same_as_plain(const std::string& batch, const std::vector<Request>& requests,
                            const JobOptions& coherent) {
    expect_same_as_plain(batch, requests, coherent, comm_);
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
  JobResult last_;
};

TEST_P(CoherenceTest, SameAsPlainAndTheReferencesText) {
  expect_same_as_plain("contiguous", requests(), options());
  expect_reference(last_);
}

TEST_P(CoherenceTest, SameAsPlainWithARandomPlan) {
  JobOptions planned = options();
  planned.plan = random_plan(read_model_spec(model()), comm_.ranks(), 21, 0);
  expect_same_as_plain("random", requests(), planned);
  expect_reference(last_);
}

TEST_P(CoherenceTest, SameAsPlainWithAFittedPlan) {
  const auto trace = kFixtures / "traces" / (model().filename().string() + ".trace.safetensors");
  if (!std::filesystem::exists(trace)) return;  // the trained models have one
  JobOptions planned = options();
  planned.plan = fitted_plan(trace, comm_.ranks());
  expect_same_as_plain("fitted", requests(), planned);
  expect_reference(last_);
}

/// More kinds of batches and plans, with some models.
class CoherentBatchesTest : public CoherenceTest {};

TEST_P(CoherentBatchesTest, SmallChunks) {
  JobOptions chunked = options();
  chunked.scheduler.max_batch_tokens = 6;
  chunked.scheduler.max_batch_size = 2;
  expect_same_as_plain("small chunks", requests(), chunked);
}

TEST_P(CoherentBatchesTest, OneRequestOnly) {
  expect_same_as_plain("one", {requests().back()}, options());
}

TEST_P(CoherentBatchesTest, NodesThatHaveAllExpertsOfALayerDoNotWaitForOthersThere) {
  const ModelSpec spec = read_model_spec(model());
  if (comm_.ranks() % 2 != 0) return;
  JobOptions planned = options();
  planned.plan = contiguous_plan(spec.family, spec.moe_layer_ids(), spec.experts(), spec.top_k(),
                                 Topology{std::vector<int>(comm_.ranks() / 2, 2)});
  Plan& plan = *planned.plan;
  plan.slots_per_rank = (plan.experts + 1) / 2;
  for (std::size_t l = 0; l < plan.physical_to_logical.size(); ++l) {
    auto& slots = plan.physical_to_logical[l];
    slots.assign(static_cast<std::size_t>(plan.slots_per_rank) * comm_.ranks(), Plan::kEmptySlot);
    // The first layer whole on every node, the others on the first.
    const int nodes = l == 0 ? comm_.ranks() / 2 : 1;
    for (int node = 0; node < nodes; ++node) {
      for (int e = 0; e < plan.experts; ++e) slots[2 * node * plan.slots_per_rank + e] = e;
    }
  }
  expect_reference(run_job(model(), requests(), planned, comm_));
  for (const auto& [key, traffic] : comm_.traffic()) {
    if (key.layer < 0 || key.collective == "freight") continue;
    const bool of_node =
        key.layer == 0 && GetParam().coherence == Coherence::node && GetParam().micro_batches == 1 && comm_.ranks() > 2;
    EXPECT_EQ(traffic.calls_of_all, of_node ? 0 : traffic.calls) << key.collective << " at layer " << key.layer;
  }
}

TEST_P(CoherentBatchesTest, AllExpertsOnTheLastRank) {  // the others see no token for many steps
  JobOptions skewed = options();
  Plan plan = random_plan(read_model_spec(model()), comm_.ranks(), 1, 0);
  plan.slots_per_rank = plan.experts;
  for (auto& layer : plan.physical_to_logical) {
    layer.assign(static_cast<std::size_t>(plan.experts) * comm_.ranks(), Plan::kEmptySlot);
    for (int e = 0; e < plan.experts; ++e) layer[layer.size() - plan.experts + e] = e;
  }
  skewed.plan = plan;
  expect_same_as_plain("last rank", requests(), skewed);
}

TEST_P(CoherentBatchesTest, LittleKvMemory) {  // blocks go from one sequence to the next in the same step everywhere
  JobOptions little = options();
  for (const Request& r : requests()) {
    little.kv_blocks = std::max(r.line == 1 ? 0 : little.kv_blocks, KvPool::blocks_for(Scheduler::kv_tokens(r)));
  }
  expect_same_as_plain("contiguous", requests(), little);
}

TEST_P(CoherentBatchesTest, TheReferencesTextWithReplicas) {
  // Which replica a sum counts as depends on where the sequence is at home: equal but for rounding.
  JobOptions planned = options();
  planned.plan = random_plan(read_model_spec(model()), comm_.ranks(), 22);
  expect_reference(run_job(model(), requests(), planned, comm_));
}

TEST_P(CoherentBatchesTest, NodesOfAllSizes) {
  if (GetParam().coherence != Coherence::node) return;
  for (const int ranks_per_node : {1, 3, 4}) {  // 3: the last node is smaller
    SCOPED_TRACE(ranks_per_node);
    const auto transport = make_mpi_communicator(test_session(), {.ranks_per_node = ranks_per_node});
    CountingCommunicator comm(*transport);
    expect_same_as_plain("contiguous", requests(), options(), comm);
  }
}

TEST_P(CoherentBatchesTest, ExchangesAreCounted) {
  const ModelSpec spec = read_model_spec(model());
  const JobResult result = run_job(model(), requests(), options(), comm_);
  std::int64_t outside = 0;
  std::map<int, std::map<std::string, std::int64_t>> decode;  // by layer and collective
  for (const auto& [key, traffic] : result.traffic) {
    if (key.layer < 0) outside += traffic.calls;
    if (key.layer < 0 || key.group != std::string("decode")) continue;
    EXPECT_EQ(key.kind, "exchange") << "layer " << key.layer;
    decode[key.layer][key.collective] += traffic.calls;
  }
  EXPECT_LE(outside, result.steps + 1) << "one for each step, and one to begin with";
  const bool all_here = GetParam().coherence == Coherence::world || comm_.ranks() == 2;
  const std::int64_t steps = result.decode_steps;
  ASSERT_GT(steps, 0);
  ASSERT_EQ(decode.size(), static_cast<std::size_t>(spec.moe_layers()));
  for (auto& [layer, calls] : decode) {
    if (GetParam().micro_batches == 2) {
      EXPECT_EQ(calls["dispatch"], 2 * steps) << "layer " << layer;
      // The last half's partial sums have nothing left to ride with.
      EXPECT_LE(calls["combine"], layer == spec.moe_layers() - 1 ? steps : 0) << "layer " << layer;
    } else if (all_here && (spec.top_k() == 1 || GetParam().replicate)) {
      EXPECT_EQ(calls["dispatch"] + calls["combine"], steps) << "layer " << layer;
    } else {  // where no token has a partial sum to send, the second is left out
      EXPECT_LE(calls["dispatch"], steps) << "layer " << layer;
      EXPECT_LE(calls["combine"], steps) << "layer " << layer;
    }
  }
}

std::vector<Form> forms_of(const std::vector<std::string>& models) {
  std::vector<Form> out;
  for (const std::string& model : models) {
    for (const Coherence coherence : {Coherence::node, Coherence::world}) {
      out.push_back({model, coherence, false, 1});
      out.push_back({model, coherence, true, 1});
      out.push_back({model, coherence, false, 2});
    }
  }
  return out;
}

std::vector<std::string> all_models() {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(kFixtures / "models")) {
    if (entry.path().filename() != "reference.safetensors") continue;
    out.push_back(entry.path().parent_path().lexically_relative(kFixtures / "models").string());
  }
  std::sort(out.begin(), out.end());
  return out;
}

std::string name_of(const testing::TestParamInfo<Form>& test) {
  std::string name = test.param.model + (test.param.coherence == Coherence::node ? "_node" : "_world") +
                     (test.param.replicate ? "_replicate" : "_follow") +
                     (test.param.micro_batches == 2 ? "_in_halves" : "");
  std::replace_if(
      name.begin(), name.end(), [](char c) { return !std::isalnum(c); }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Forms, CoherenceTest, testing::ValuesIn(forms_of(all_models())), name_of);
INSTANTIATE_TEST_SUITE_P(Forms, CoherentBatchesTest,
                         testing::ValuesIn(forms_of({"mixtral", "olmoe-top1", "qwen3-moe", "deepseek-v3"})), name_of);

}  // namespace
}  // namespace coterie
