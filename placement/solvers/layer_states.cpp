#include "placement/solvers/layer_states.hpp"

#include <bitset>
#include <limits>
#include <utility>

namespace coterie {
namespace {

constexpr int kMostRanks = std::numeric_limits<std::uint8_t>::max();

// Deals the experts in order. Ranks of a node, and nodes of one size, are taken into use in order, so every class of
// ways is met once.
class Enumeration {
 public:
  Enumeration(const LayerShape& shape, const Topology& topology, std::size_t limit)
      : shape_(shape),
        topology_(topology),
        limit_(limit),
        state_(shape.experts),
        held_(topology.ranks(), 0),
        missing_(shape.fewest * topology.ranks()) {}

  std::optional<std::vector<LayerState>> run() {
    if (topology_.ranks() > kMostRanks) return std::nullopt;
    deal(0);
    if (states_.size() > limit_) return std::nullopt;
    return std::move(states_);
  }

 private:
  void deal(int expert) {
    if (states_.size() > limit_ || missing_ > shape_.experts - expert) return;
    if (expert == shape_.experts) {
      states_.push_back(state_);
      return;
    }
    std::bitset<kMostRanks + 1> waits;  // sizes of nodes of which one is not in use: it goes before later ones
    int first = 0;
    for (const int size : topology_.ranks_per_node) {
      const int last = first + size;
      if (!waits[size]) {
        waits[size] = held_[first] == 0;
        for (int r = first; r < last; ++r) {
          if (held_[r] < shape_.most) give(expert, r);
          if (held_[r] == 0) break;
        }
      }
      first = last;
    }
  }

  void give(int expert, int rank) {
    const bool needed = held_[rank] < shape_.fewest;
    ++held_[rank];
    missing_ -= needed;
    state_[expert] = static_cast<std::uint8_t>(rank);
    deal(expert + 1);
    missing_ += needed;
    --held_[rank];
  }

  LayerShape shape_;
  const Topology& topology_;
  std::size_t limit_;
  LayerState state_;
  std::vector<int> held_;  // (ranks)
  int missing_;            // experts that ranks still lack to have the fewest allowed
  std::vector<LayerState> states_;
};

}  // namespace

std::optional<std::vector<LayerState>> layer_states(const LayerShape& shape, const Topology& topology,
                                                    std::size_t limit) {
  return Enumeration(shape, topology, limit).run();
}

}  // namespace coterie
