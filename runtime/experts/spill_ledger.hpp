// Which experts each rank keeps of those that came to it: the spill caches of all ranks, as every rank knows them.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <span>
#include <utility>
#include <vector>

namespace coterie {

/// Least recently used goes first. What a cache holds follows from the calls alone, so ranks that make the same calls
/// agree. Pure: it knows sizes, not weights.
class SpillLedger {
 public:
  struct Key {
    int layer = 0, expert = 0;
    friend auto operator<=>(const Key&, const Key&) = default;
  };

  /// `budget` and `expert_bytes`: bytes of a rank, and of one expert; no expert is kept when one is larger than that.
  SpillLedger(int ranks, int layers, int experts, std::int64_t budget, std::int64_t expert_bytes);

  /// (experts, ranks) of a layer: 1 where a rank keeps the expert. Empty while no rank keeps any of this layer.
  [[nodiscard]] std::span<const std::uint8_t> kept(int layer) const;
  [[nodiscard]] bool keeps(Key key, int rank) const;
  /// `rank` computes with an expert that it doesn't hold: it is kept from now on, where one fits at all. Returns
  /// whether it was kept before.
  bool use(Key key, int rank);
  /// All ranks drop all.
  void clear();
  /// The same, and they keep nothing more.
  void close();

  /// The keys that `rank` keeps, the one used last first.
  [[nodiscard]] const std::list<Key>& keys(int rank) const { return caches_[rank].order; }
  /// Of all calls so far: ranks that made the same ones have the same.
  [[nodiscard]] std::uint64_t digest() const noexcept { return digest_; }

 private:
  struct Cache {
    std::list<Key> order;
    std::map<Key, std::list<Key>::iterator> places;
  };
  void mark(Key key, int rank, bool kept);

  int experts_;
  std::size_t most_;  ///< experts of a rank
  std::vector<Cache> caches_;
  std::vector<std::vector<std::uint8_t>> kept_;  ///< (layers): (experts, ranks)
  std::vector<int> kept_of_layer_;               ///< (layers): ones among them
  std::uint64_t digest_ = 0;
};

}  // namespace coterie
