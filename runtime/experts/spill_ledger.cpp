#include "runtime/experts/spill_ledger.hpp"

#include "placement/splitmix.hpp"

#include <utility>

namespace coterie {

SpillLedger::SpillLedger(int ranks, int layers, int experts, std::int64_t budget, std::int64_t expert_bytes)
    : experts_(experts),
      most_(expert_bytes > 0 ? static_cast<std::size_t>(budget / expert_bytes) : 0),
      caches_(ranks),
      kept_(layers, std::vector<std::uint8_t>(static_cast<std::size_t>(experts) * ranks, 0)),
      kept_of_layer_(layers, 0) {}

std::span<const std::uint8_t> SpillLedger::kept(int layer) const {
  if (kept_of_layer_[layer] == 0) return {};
  return kept_[layer];
}

bool SpillLedger::keeps(Key key, int rank) const {
  return caches_[rank].places.contains(key);
}

bool SpillLedger::use(Key key, int rank) {
  const auto event = (static_cast<std::uint64_t>(rank) * kept_.size() + key.layer) * experts_ + key.expert;
  digest_ = SplitMix(digest_ ^ event).next();
  if (most_ == 0) return false;
  Cache& cache = caches_[rank];
  if (const auto found = cache.places.find(key); found != cache.places.end()) {
    cache.order.splice(cache.order.begin(), cache.order, found->second);
    return true;
  }
  if (cache.order.size() == most_) {
    mark(cache.order.back(), rank, false);
    cache.places.erase(cache.order.back());
    cache.order.pop_back();
  }
  cache.order.push_front(key);
  cache.places[key] = cache.order.begin();
  mark(key, rank, true);
  return false;
}

void SpillLedger::clear() {
  for (int rank = 0; rank < static_cast<int>(caches_.size()); ++rank) {
    for (const Key& key : caches_[rank].order) mark(key, rank, false);
    caches_[rank] = {};
  }
  digest_ = SplitMix(~digest_).next();
}

void SpillLedger::close() {
  clear();
  most_ = 0;
}

void SpillLedger::mark(Key key, int rank, bool kept) {
  kept_[key.layer][static_cast<std::size_t>(key.expert) * caches_.size() + rank] = kept ? 1 : 0;
  kept_of_layer_[key.layer] += kept ? 1 : -1;
}

}  // namespace coterie
