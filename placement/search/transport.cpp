#include "placement/search/transport.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace coterie {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

// Items enter one after another, each along the shortest path item -> bin -> bin ... -> room: a step from bin to bin
// evicts the item that loses least by it.
class Transport {
 public:
  Transport(std::span<const double> gain, int bins, int fewest, int most)
      : gain_(gain),
        bins_(bins),
        fewest_(fewest),
        most_(most),
        held_(bins),
        step_(static_cast<std::size_t>(bins) * bins, kNever),
        evicted_(step_.size(), -1) {
    double largest = 0;
    for (const double g : gain) largest = std::max(largest, std::abs(g));
    // Filling a bin up to `fewest` outweighs everything else.
    urgency_ = 4 * (largest + 1) * (bins + 1);
  }

  std::vector<int> solve() {
    const int items = static_cast<int>(gain_.size()) / bins_;
    std::vector<int> bin(items, -1);
    for (int item = 0; item < items; ++item) insert(item, bin);
    return bin;
  }

 private:
  [[nodiscard]] double gain(int item, int bin) const { return gain_[static_cast<std::size_t>(item) * bins_ + bin]; }

  void insert(int item, std::vector<int>& bin) {
    std::vector<double> cost(bins_);
    std::vector<int> before(bins_, -1);
    for (int b = 0; b < bins_; ++b) cost[b] = -gain(item, b);
    for (bool any = true; any;) {
      any = false;
      for (int a = 0; a < bins_; ++a)
        for (int b = 0; b < bins_; ++b) {
          const double through = cost[a] + step_[static_cast<std::size_t>(a) * bins_ + b];
          // The margin keeps rounding from making a circle of cost zero look like a gain.
          if (through < cost[b] - 1e-12 * urgency_) {
            cost[b] = through;
            before[b] = a;
            any = true;
          }
        }
    }
    int last = -1;
    double least = kNever;
    for (int b = 0; b < bins_; ++b) {
      const int held = static_cast<int>(held_[b].size());
      if (held >= most_) continue;
      const double total = cost[b] - (held < fewest_ ? urgency_ : 0);
      if (total < least) {
        least = total;
        last = b;
      }
    }
    std::vector<int> path{last};
    while (before[path.back()] >= 0) path.push_back(before[path.back()]);
    for (std::size_t i = 0; i + 1 < path.size(); ++i) {
      const int from = path[i + 1], to = path[i];
      const int moved = evicted_[static_cast<std::size_t>(from) * bins_ + to];
      std::erase(held_[from], moved);
      held_[to].push_back(moved);
      bin[moved] = to;
    }
    held_[path.back()].push_back(item);
    bin[item] = path.back();
    for (const int b : path) refresh(b);
  }

  void refresh(int from) {
    for (int to = 0; to < bins_; ++to) {
      double least = kNever;
      for (const int item : held_[from]) {
        const double loss = gain(item, from) - gain(item, to);
        if (to != from && loss < least) {
          least = loss;
          evicted_[static_cast<std::size_t>(from) * bins_ + to] = item;
        }
      }
      step_[static_cast<std::size_t>(from) * bins_ + to] = least;
    }
  }

  std::span<const double> gain_;
  int bins_, fewest_, most_;
  double urgency_ = 0;
  std::vector<std::vector<int>> held_;  // (bins): items
  std::vector<double> step_;            // (bins, bins): least loss of moving an item
  std::vector<int> evicted_;            // (bins, bins): that item
};

}  // namespace

std::vector<int> best_transport(std::span<const double> gain, int bins, int fewest, int most) {
  return Transport(gain, bins, fewest, most).solve();
}

}  // namespace coterie
