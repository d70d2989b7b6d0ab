// A whole job inside a test: a model folder, requests, the ranks of the test, and everything that comes out.
#pragma once

#include "comm/counting_communicator.hpp"
#include "placement/plan.hpp"
#include "placement/trace/trace.hpp"
#include "runtime/engine/engine.hpp"
#include "runtime/requests/continuation.hpp"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace coterie {

/// `reference.safetensors` of a fixture: what another implementation computed.
struct Reference {
  struct Prompt {
    std::vector<std::int32_t> tokens;
    std::vector<float> logits;           ///< (tokens, vocabulary)
    std::vector<std::uint16_t> experts;  ///< (tokens, layers, top_k)
    std::vector<float> gates;            ///< the same
    std::vector<std::int32_t> greedy;
  };
  std::vector<Prompt> prompts;
};

[[nodiscard]] Reference read_reference(const std::filesystem::path& model);

/// A greedy request for `reference`'s prompt `index`, custom_id "p<index>", on input line index + 1.
[[nodiscard]] Request greedy_request(const Reference& reference, std::size_t index);

struct JobOptions {
  Coherence coherence = Coherence::rank;
  int micro_batches = 1;
  SchedulerOptions scheduler;
  std::int64_t kv_blocks = 256;
  int threads = 1;
  DType dtype = DType::f32;           ///< of weights, and of a GPU's activations
  std::optional<Plan> plan;           ///< contiguous without
  std::optional<SpillOptions> spill;  ///< none: plain dispatch
  std::function<bool()> short_of_memory;
  std::size_t reserved = 0;  ///< bytes of its memory, and of shared memory, that the device takes at the start; 0: none
  bool graphs = true;        ///< of a GPU
  bool watched = true;       ///< routing is recorded, for the result's trace and `observe`
  RoutingObserver observe;
  std::function<void()> on_step;  ///< on rank 0, once a step
};

/// What is known on rank 0.
// NOLINTNEXTLINE(bugprone-exception-escape): the JSON library's move asserts
struct JobResult {
  std::map<std::string, std::vector<std::int32_t>> tokens;  ///< generated, by custom_id
  std::map<std::string, std::vector<float>> logits;         ///< of the prompts, (tokens, vocabulary)
  Trace trace;
  std::vector<std::string> order;  ///< custom_ids as they finished
  std::int64_t steps = 0;
  std::int64_t decode_steps = 0;  ///< of this rank, on every rank: domains have prompts at different times
  std::map<CountingCommunicator::Key, Traffic> traffic;  ///< of this rank up to the last step, on every rank
  nlohmann::json metrics;
};

/// What the jobs of a test program compute on, and exchange through: linked in, cpu_test_device.cpp (over MPI) or
/// cuda_test_device.cpp (over NCCL where there is one).
[[nodiscard]] std::unique_ptr<Device> make_test_device(const JobOptions& options);
/// Collective.
[[nodiscard]] std::unique_ptr<Communicator> make_test_transport();
[[nodiscard]] bool test_device_is_here();

/// Collective over the ranks of the test. The KV cache is full of NaN at first: a row that is read but was never
/// computed here and never arrived shows in everything that comes after it.
[[nodiscard]] JobResult run_job(const std::filesystem::path& model, const std::vector<Request>& requests,
                                const JobOptions& options, CountingCommunicator& comm);

/// For a model whose routing was recorded: experts that follow each other are together.
[[nodiscard]] Plan fitted_plan(const std::filesystem::path& trace, int ranks);

/// Every expert on a random rank, this share of them on two; ranks may be left without any.
[[nodiscard]] Plan random_plan(const ModelSpec& spec, int ranks, std::uint64_t seed, double replicated = 0.2);

}  // namespace coterie
