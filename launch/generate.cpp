// `coterie generate`: a batch of requests through a model on the ranks that mpirun or srun started.
#include "launch/generate.hpp"

#include "launch/command.hpp"
#include "launch/generate_options.hpp"
#include "launch/on_ranks.hpp"
#include "launch/progress.hpp"
#include "placement/digest.hpp"
#include "runtime/agreement.hpp"
#include "runtime/engine.hpp"
#include "runtime/family.hpp"
#include "runtime/logits_recorder.hpp"
#include "runtime/request_feed.hpp"
#include "runtime/result_line.hpp"
#include "runtime/trace_recorder.hpp"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <fstream>
#include <iostream>
#include <memory>

namespace coterie {
namespace {

std::atomic<bool> stop_requested = false;

/// The first signal of a kind lets the step finish; the second ends the process as usual.
void stop_at_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { stop_requested = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
}

/// What a rank reads before anything big is loaded.
struct Inputs {
  ModelSpec                   spec;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Tokenizer>  tokenizer;
  Plan                        plan;
};

Topology topology_of(const Communicator& comm) {
  const auto nodes = comm.node_of_rank();
  Topology   topology;
  topology.ranks_per_node.resize(static_cast<std::size_t>(*std::max_element(nodes.begin(), nodes.end())) + 1);
  for (const int node : nodes) ++topology.ranks_per_node[node];
  return topology;
}

Inputs read_inputs(const GenerateOptions& options, const Communicator& comm) {
  Inputs in;
  in.spec = read_model_spec(options.model);
  in.checkpoint = std::make_unique<Checkpoint>(options.model);
  in.spec.for_each_weight([&](const WeightRef& ref) { in.checkpoint->check(ref); });
  in.tokenizer = load_tokenizer(options.model);
  const auto layers = in.spec.moe_layer_ids();
  if (options.plan.empty()) {
    in.plan = contiguous_plan(in.spec.family, layers, in.spec.experts(), in.spec.top_k(), topology_of(comm));
  } else {
    in.plan = read_plan(options.plan);
    check_plan(in.plan, options.plan.string(), layers, in.spec.experts(), comm.ranks());
  }
  return in;
}

void check_writable(const std::filesystem::path& path) {
  if (path.empty()) return;
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : ".";
  if (std::filesystem::is_directory(path) || access(folder.c_str(), W_OK) != 0) {
    throw InputError(path.string() + ": can't be written: expected a file in a folder that exists and may be written");
  }
}

/// Blocks of a rank's KV cache: as many as --kv-memory holds, else what the largest batch can need, but no more than the
/// ranks' share of a quarter of the node's memory.
std::int64_t kv_blocks(const GenerateOptions& options, const ModelSpec& spec, DType type, const Topology& topology) {
  const std::int64_t block = KvPool::block_bytes(spec, type);
  if (options.kv_memory) {
    const std::int64_t blocks = static_cast<std::int64_t>(*options.kv_memory) / block;
    if (blocks == 0) {
      throw bad_field("coterie generate", "--kv-memory", std::to_string(*options.kv_memory) + " bytes",
                      "at least the " + std::to_string(block) + " bytes of one block of " +
                          std::to_string(KvPool::kBlockTokens) + " tokens");
    }
    return blocks;
  }
  const std::int64_t memory = std::int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGE_SIZE);
  const std::int64_t ranks = *std::max_element(topology.ranks_per_node.begin(), topology.ranks_per_node.end());
  const std::int64_t wanted = options.max_batch_size * KvPool::blocks_for(spec.max_positions);
  return std::max<std::int64_t>(1, std::min(wanted, memory / 4 / ranks / block));
}

class Generate {
 public:
  Generate(const GenerateOptions& options, Communicator& comm) : options_(options), plain_comm_(comm), comm_(comm) {}

  int run(const std::string& command_line) {
    const auto started = std::chrono::steady_clock::now();
    all_or_none(comm_, [&] {
      in_ = read_inputs(options_, comm_);
      device_ = make_cpu_device({options_.dtype, options_.threads});
      blocks_ = kv_blocks(options_, in_.spec, device_->activation_type(), topology_of(comm_));
      for (const auto& path : {options_.trace_out, options_.logits_out, options_.metrics}) check_writable(path);
    });
    expect_same(comm_, {{"model", model_digest()},
                        {"plan", options_.plan.empty() ? "contiguous" : sha256_of_file(options_.plan)},
                        {"command line", command_line}});
    blocks_ = smallest(comm_, blocks_);
    if (comm_.rank() == 0) {
      // Rank 0 alone reads requests and writes results.
    }
    all_or_none(comm_, [&] {
      if (comm_.rank() == 0) open_files();
    });

    Worker worker(in_.spec, *in_.checkpoint, in_.plan, in_.tokenizer.get(), *device_, comm_,
                  {{options_.max_batch_tokens, static_cast<int>(options_.max_batch_size)}, blocks_, options_.dtype});
    in_.checkpoint.reset();
    return 0;
  }

 private:
  std::string model_digest() const;
  void        open_files();

  const GenerateOptions&       options_;
  Communicator&                plain_comm_;
  CountingCommunicator         comm_;
  Inputs                       in_;
  std::unique_ptr<Device>      device_;
  std::int64_t                 blocks_ = 0;
  std::unique_ptr<ResultsFile> results_;
  std::unique_ptr<RequestFeed> feed_;
};

}  // namespace
}  // namespace coterie
