#include "runtime/cost/step_memory.hpp"

#include <algorithm>
#include <utility>

namespace coterie {
namespace {

constexpr std::int64_t kSmallThings = std::int64_t{32} << 20;     // bytes
constexpr std::int64_t kAttentionSums = std::int64_t{320} << 20;  // bytes: of the parts of long contexts, at most
constexpr std::int64_t kPartPositions = 256;
constexpr std::int64_t kIndexBytes = 96;  // of a pair or a row, in all lists together

/// Numbers of a row that lie in memory at a time while it goes through attention.
std::int64_t attention_width(const AttentionSpec& attention, std::int64_t hidden) {
  if (!attention.latent) return 2 * hidden + 2 * attention.q_width() + 2 * attention.kv_width();
  const LatentSpec& latent = *attention.latent;
  const std::int64_t heads = attention.shape.heads;
  const std::int64_t q_rank = latent.q_down.empty() ? 0 : latent.q_down.front().rows;
  return 2 * hidden + q_rank + latent.width() + heads * (latent.nope + latent.rope + 2 * latent.latent + latent.value);
}

}  // namespace

StepMemory step_memory(const ModelSpec& spec, const StepRows& most, DType activations) {
  const auto number = static_cast<std::int64_t>(size_of(activations));
  std::int64_t layers = 0;   // numbers: of the most that lies in memory from one layer with experts to the next
  std::int64_t since = 0;    // the same, of the layers since the last one with experts
  std::int64_t between = 0;  // f32 numbers between two products
  std::int64_t parts = 0;    // f32 numbers of attention's parts
  const std::int64_t context = (spec.max_positions + kPartPositions - 1) / kPartPositions;
  for (const LayerSpec& layer : spec.layers) {
    since += most.rows * attention_width(layer.attention, spec.hidden);
    parts = std::max(parts, most.rows * layer.attention.shape.heads * context *
                                std::max<std::int64_t>(layer.attention.shape.head_dim, 1));
    if (!layer.moe) {
      since += most.rows * 2 * spec.hidden;
      between = std::max(between, most.rows * 3 * layer.dense.down.cols);
      layers = std::max(layers, since);
      continue;
    }
    constexpr std::int64_t kRowsOfWidth = 8;  // what router, shared expert, sums and landing take
    since += (kRowsOfWidth * most.rows + 3 * most.pairs) * spec.hidden;
    layers = std::max(layers, std::exchange(since, 0));
    const auto experts = static_cast<std::int64_t>(layer.moe->experts.size());
    const std::int64_t width = layer.moe->experts.front().down.cols;
    const std::int64_t shared = layer.moe->shared ? layer.moe->shared->mlp.down.cols : 0;
    between = std::max({between, most.pairs * 3 * width, most.rows * 3 * shared, most.rows * experts});
  }
  const std::int64_t stream = most.rows * spec.hidden;
  const std::int64_t logits = most.sampled * (spec.hidden + spec.vocabulary);
  const std::int64_t lists = (most.rows + most.pairs) * kIndexBytes;
  StepMemory memory;
  const std::int64_t messages = 8 * stream;  // in the device's memory or in shared memory, as the transport has it
  memory.own =
      (layers + 2 * stream + messages + logits) * number + between * 4 + std::min(parts * 4, kAttentionSums) + lists;
  memory.own += memory.own / 4 + kSmallThings;
  memory.shared = messages * number + 2 * lists + kSmallThings;
  return memory;
}

}  // namespace coterie
