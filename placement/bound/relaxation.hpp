// The relaxed placement problem: which experts share a part (a rank, or a node), without saying which part.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// Whether two items may share a part.
enum class Share : std::uint8_t { never, maybe, always };

/// Largest sum of weights of pairs that share a part, when each layer's items are divided into parts of one size. Items
/// are the experts and, after them, empty slots that fill the parts up; parts are the same in all layers.
/// placement/bound/bounds.md has the argument why an upper bound of this bounds the placement problem.
struct Relaxation {
  int layers = 0;
  int experts = 0;
  int parts = 0;
  int capacity = 0;  ///< items of a part
  int replicas = 0;  ///< further copies of experts, per layer, that take the place of empty slots
  /// (layers - 1)(items, items), row-major: i of a layer, j of the next. Empty: layers are independent.
  std::vector<std::vector<double>> between;
  /// (layers)(items, items), symmetric, each unordered pair counts once. Empty: no weight inside layers.
  std::vector<std::vector<double>> within;
  /// (layers)(items, items), symmetric: pairs inside a layer.
  std::vector<std::vector<Share>> share;
  /// (items, items): pairs of neighbouring layers.
  std::vector<Share> share_between;
  /// (layers)(items): load, as a share of what a part may have at most. Empty: no limit.
  std::vector<std::vector<double>> load;

  [[nodiscard]] int items() const noexcept { return parts * capacity; }
  [[nodiscard]] bool coupled() const noexcept { return !between.empty(); }
  /// Blocks of the doubly nonnegative relaxation: pairs of neighbouring layers, or single layers without coupling.
  [[nodiscard]] int blocks() const noexcept { return coupled() ? layers - 1 : layers; }
  /// Layers of a block.
  [[nodiscard]] int span() const noexcept { return coupled() ? 2 : 1; }
  /// Blocks that a layer is part of.
  [[nodiscard]] int copies(int layer) const noexcept { return coupled() && layer > 0 && layer + 1 < layers ? 2 : 1; }
};

/// Without weights, limits and known pairs.
[[nodiscard]] Relaxation empty_relaxation(int layers, int experts, int parts, int capacity);

/// At most what replicas add to the weight of pairs that share a part, in one layer. `company` (experts, experts): what
/// an expert (row) gains by those that it may come to share a part with; every further copy of it meets at most
/// `capacity` of them, and each of them once.
[[nodiscard]] double replica_gain(std::span<const double> company, int experts, int replicas, int capacity);

}  // namespace coterie
