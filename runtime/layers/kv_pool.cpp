#include "runtime/layers/kv_pool.hpp"

#include <algorithm>

namespace coterie {

std::int64_t KvPool::block_bytes(const ModelSpec& spec, DType type) {
  return spec.kv_elements_per_token() * kBlockTokens * static_cast<std::int64_t>(size_of(type));
}

KvPool::KvPool(const ModelSpec& spec, Device& device, std::int64_t blocks)
    : blocks_(blocks), bytes_(blocks * block_bytes(spec, device.activation_type())) {
  memory_ = device.allocate(static_cast<std::size_t>(bytes_));
  std::byte* at = memory_.get();
  for (const LayerSpec& layer : spec.layers) {
    const std::int64_t number = blocks * kBlockTokens * static_cast<std::int64_t>(size_of(device.activation_type()));
    std::byte* const v = at + number * layer.attention.cached_k();
    layers_.push_back({at, v, kBlockTokens, layer.attention.shape.head_dim});
    at = v + number * layer.attention.cached_v();
  }
  for (std::int64_t b = blocks; b-- > 0;) free_.push_back(static_cast<std::int32_t>(b));
}

std::optional<std::vector<std::int32_t>> KvPool::take(std::int64_t tokens) {
  const std::int64_t n = blocks_for(tokens);
  if (n > free_blocks()) return std::nullopt;
  std::vector<std::int32_t> taken(free_.rbegin(), free_.rbegin() + n);
  free_.resize(free_.size() - static_cast<std::size_t>(n));
  peak_blocks_ = std::max(peak_blocks_, blocks_ - free_blocks());
  return taken;
}

void KvPool::give_back(const std::vector<std::int32_t>& blocks) {
  free_.insert(free_.end(), blocks.rbegin(), blocks.rend());
}

}  // namespace coterie
