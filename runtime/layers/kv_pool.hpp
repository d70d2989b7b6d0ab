// The paged KV cache of one rank: blocks of consecutive positions, dealt to sequences out of one budget.
#pragma once

#include "kernels/device.hpp"
#include "runtime/checkpoint/model_spec.hpp"

#include <cstdint>
#include <optional>
#include <vector>

namespace coterie {

class KvPool {
 public:
  static constexpr int kBlockTokens = 16;

  /// Bytes that one block takes, over all layers.
  [[nodiscard]] static std::int64_t block_bytes(const ModelSpec& spec, DType type);
  [[nodiscard]] static std::int64_t blocks_for(std::int64_t tokens) {
    return (tokens + kBlockTokens - 1) / kBlockTokens;
  }

  /// Memory for `blocks` blocks; the device must outlive the pool.
  KvPool(const ModelSpec& spec, Device& device, std::int64_t blocks);

  [[nodiscard]] std::int64_t blocks() const noexcept { return blocks_; }
  [[nodiscard]] std::int64_t free_blocks() const noexcept { return static_cast<std::int64_t>(free_.size()); }
  [[nodiscard]] std::int64_t bytes() const noexcept { return bytes_; }
  /// The most that was in use at a time.
  [[nodiscard]] std::int64_t peak_bytes() const noexcept {
    return peak_blocks_ * (blocks_ == 0 ? 0 : bytes_ / blocks_);
  }

  /// Room for that many tokens, or nothing when there isn't so much.
  [[nodiscard]] std::optional<std::vector<std::int32_t>> take(std::int64_t tokens);
  void give_back(const std::vector<std::int32_t>& blocks);

  [[nodiscard]] const KvCache& layer(int layer) const { return layers_[layer]; }

 private:
  DeviceMemory memory_;
  std::vector<KvCache> layers_;
  std::vector<std::int32_t> free_;  ///< the last is taken first
  std::int64_t blocks_ = 0;
  std::int64_t bytes_ = 0;
  std::int64_t peak_blocks_ = 0;
};

}  // namespace coterie
