#include "launch/gpu_memory.hpp"

#include "runtime/layers/weights.hpp"

#include <algorithm>
#include <string>

namespace coterie {
namespace {

constexpr std::int64_t kOthersShare = 32;  // 1 / so much is left to CUDA and NCCL themselves

/// Of all experts of all layers, the share that a rank holds.
double held_share(const Plan& plan, int rank) {
  std::int64_t held = 0;
  for (int layer = 0; layer < plan.layers(); ++layer) {
    for (int expert = 0; expert < plan.experts; ++expert) {
      const auto owners = plan.owners(layer, expert);
      held += std::count(owners.begin(), owners.end(), rank);
    }
  }
  return static_cast<double>(held) / (static_cast<double>(plan.layers()) * plan.experts);
}

}  // namespace

std::optional<GpuMemory> gpu_memory(const GenerateOptions& options, const JobFacts& facts, const Device& device,
                                    int rank, std::int64_t together) {
  const auto free = device.free_memory();
  if (!free) return std::nullopt;
  const auto& ranks = facts.topology.ranks_per_node;
  const std::int64_t sharers = options.share_gpu ? *std::max_element(ranks.begin(), ranks.end()) : 1;
  GpuMemory memory;
  memory.there = static_cast<std::int64_t>(*free) / sharers;
  memory.there -= memory.there / kOthersShare;
  const WeightBytes weights = weight_bytes(facts.spec, nullptr, options.dtype);
  memory.weights =
      weights.dense + static_cast<std::int64_t>(static_cast<double>(weights.experts) * held_share(facts.plan, rank));

  StepRows most;
  most.rows = std::max<std::int64_t>(options.max_batch_tokens, options.max_batch_size) +
              (together - 1) * options.max_batch_size;
  most.pairs = most.rows * facts.spec.top_k() * (facts.topology.ranks() > 1 ? 2 : 1);  // others send more, or less
  most.sampled = options.logits_out.empty() ? std::min(most.rows, together * options.max_batch_size) : most.rows;
  memory.step = step_memory(facts.spec, most, device.activation_type());
  if (facts.topology.ranks() > 1 && options.dispatch.policy != DispatchPolicy::plain) {
    memory.step.own += std::min(static_cast<std::int64_t>(options.spill_cache), weights.experts);
  }
  return memory;
}

std::string to_string(const GpuMemory& memory) {
  return "a rank has " + std::to_string(memory.there) + " bytes of its GPU, of which its weights take " +
         std::to_string(memory.weights) + " and the work of a step " + std::to_string(memory.step.own);
}

InputError does_not_fit(const GpuMemory& memory, std::int64_t block_bytes) {
  return InputError("coterie generate: the model doesn't fit its GPUs: " + to_string(memory) +
                    ", which leaves nothing for a block of keys and values of " + std::to_string(block_bytes) +
                    " bytes; more GPUs, --dtype bf16 or a smaller --max-batch-tokens would need less of each");
}

}  // namespace coterie
