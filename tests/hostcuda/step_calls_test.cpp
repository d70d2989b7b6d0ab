// What a decode step asks of CUDA once memory is reserved and a step like it was done: what the host waits for, and in
// how many pieces the GPU gets it.
#include "comm/communicator.hpp"
#include "tests/mpi_main.hpp"
#include "tests/runtime/test_job.hpp"

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace coterie {
namespace {

struct Form {
  const char* model;
  DType dtype = DType::f32;
  Coherence coherence = Coherence::rank;
  bool replicate = false;
  int micro_batches = 1;
};

/// The calls so far when a layer of a step has routed its rows.
struct Routed {
  int step;  ///< of those with rows
  int layer;
  bool decode;
  std::int64_t rows;  ///< of this rank
  hostcuda::Calls calls;
};

class StepCalls : public testing::TestWithParam<Form> {
 protected:
  static JobOptions options() {
    const Form& form = GetParam();
    JobOptions options;
    options.dtype = form.dtype;
    options.coherence = form.coherence;
    options.scheduler.replicate = form.replicate;
    options.micro_batches = form.micro_batches;
    options.reserved = std::size_t{64} << 20;
    return options;
  }

  /// All prompts of the model's reference.
  static JobResult run(const JobOptions& options) {
    const auto model = std::filesystem::path(COTERIE_FIXTURES) / "models" / GetParam().model;
    const Reference reference = read_reference(model);
    std::vector<Request> requests;
    for (std::size_t i = 0; i < reference.prompts.size(); ++i) requests.push_back(greedy_request(reference, i));
    const auto transport = make_test_transport();
    CountingCommunicator comm(*transport);
    return run_job(model, requests, options, comm);
  }

  static std::vector<Routed> run_watched() {
    std::vector<Routed> routed;
    int step = -1;
    JobOptions options = StepCalls::options();
    options.observe = [&](const Batch& batch, std::span<const std::int32_t> rows, int layer, const Routing&) {
      const bool prompts = std::ranges::any_of(batch.sequences, [](const BatchSequence& s) { return s.prompt; });
      if (layer == 0 && (routed.empty() || routed.back().layer != 0)) ++step;
      routed.push_back({step, layer, !prompts && !batch.sequences.empty(), std::ssize(rows), hostcuda::calls()});
    };
    (void)run(options);
    return routed;
  }
};

TEST_P(StepCalls, OfADecodeStep) {
  const std::vector<Routed> routed = run_watched();
  const bool alone = test_session().ranks() == 1;
  int compared = 0, decode_steps = 0;
  for (std::size_t i = 0; i + 1 < routed.size(); ++i) {
    const Routed& from = routed[i];
    const Routed& to = routed[i + 1];
    if (from.decode && from.layer == 0) ++decode_steps;
    if (!from.decode || !to.decode || decode_steps < 3) continue;
    SCOPED_TRACE("step " + std::to_string(from.step) + ", layer " + std::to_string(from.layer));
    EXPECT_EQ(to.calls.allocations, from.calls.allocations);
    EXPECT_EQ(to.calls.frees, from.calls.frees);
    EXPECT_EQ(to.calls.pageable_copies, from.calls.pageable_copies);
    // What the router says, and at a step's end the tokens; exchanges and the GPU's work wait for each other without
    // it.
    const int said = (to.rows > 0 ? 1 : 0) + (to.step != from.step ? 1 : 0);
    const std::int64_t waits = to.calls.waits - from.calls.waits;
    EXPECT_GE(waits, alone ? said : 0);
    EXPECT_LE(waits, said);
    constexpr std::int64_t said_of_a_row = 64;  // its experts and their weights, a token: not its logits
    if (alone) {
      EXPECT_LE(to.calls.bytes_to_host - from.calls.bytes_to_host, said * to.rows * said_of_a_row);
    }
    ++compared;
  }
  EXPECT_GT(compared, 4);
}

TEST_P(StepCalls, OfAStepAlone) {
  if (test_session().ranks() > 1) return;
  const auto tokens = run(options()).tokens;
  std::vector<hostcuda::Calls> after;  // each step
  JobOptions alone = options();
  alone.watched = false;
  alone.on_step = [&] { after.push_back(hostcuda::calls()); };
  const JobResult result = run(alone);
  EXPECT_EQ(result.tokens, tokens);
  ASSERT_GE(result.decode_steps, 6);
  for (auto step = after.end() - 4; step + 1 < after.end(); ++step) {  // the last one has no rows
    EXPECT_EQ(step->waits, (step - 1)->waits + 1) << "for what comes out";
    EXPECT_EQ(step->allocations, (step - 1)->allocations);
    EXPECT_EQ(step->frees, (step - 1)->frees);
    EXPECT_EQ(step->pageable_copies, (step - 1)->pageable_copies);
    EXPECT_EQ(step->graphs, (step - 1)->graphs + 1);
    EXPECT_LE(step->pieces, (step - 1)->pieces + 5) << "what chooses tokens";
  }

  // Sequences come and go, with and without graphs.
  alone.scheduler.max_batch_size = 2;
  alone.on_step = {};
  const std::int64_t graphs = hostcuda::calls().graphs;
  EXPECT_EQ(run(alone).tokens, tokens);
  EXPECT_GT(hostcuda::calls().graphs, graphs + 4);
  alone.graphs = false;
  const std::int64_t before = hostcuda::calls().graphs;
  EXPECT_EQ(run(alone).tokens, tokens);
  EXPECT_EQ(hostcuda::calls().graphs, before);
}

TEST_P(StepCalls, OfAStepOnRanks) {
  if (test_session().ranks() == 1) return;
  JobOptions among = options();
  among.watched = among.graphs = false;
  const std::int64_t before = hostcuda::calls().graphs;
  const auto tokens = run(among).tokens;
  EXPECT_EQ(hostcuda::calls().graphs, before);

  std::vector<hostcuda::Calls> after;  // each step
  among.graphs = true;
  among.on_step = [&] { after.push_back(hostcuda::calls()); };
  EXPECT_EQ(run(among).tokens, tokens);
  EXPECT_GT(hostcuda::calls().graphs, before);
  if (after.empty()) return;  // rank 0 counts
  const hostcuda::Calls& first = after[after.size() / 2];
  const std::int64_t in_graphs = after.back().in_graphs - first.in_graphs;
  const std::int64_t pieces = after.back().pieces - first.pieces;
  RecordProperty("in_graphs", std::to_string(in_graphs));
  RecordProperty("one_by_one", std::to_string(pieces));
  const bool rows_stay = GetParam().coherence == Coherence::rank || GetParam().replicate;
  EXPECT_GT(in_graphs, (rows_stay ? 10 : 0) * pieces);
}

INSTANTIATE_TEST_SUITE_P(Models, StepCalls,
                         testing::Values(Form{"mixtral"}, Form{"qwen2-moe", DType::bf16}, Form{"deepseek-v3"},
                                         Form{"gpt-oss", DType::bf16, Coherence::world},
                                         Form{"mixtral", DType::f32, Coherence::world, true},
                                         Form{"mixtral", DType::f32, Coherence::rank, false, 2}));

}  // namespace
}  // namespace coterie
