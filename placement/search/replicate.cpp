#include "placement/search/replicate.hpp"

#include "placement/parallel.hpp"
#include "placement/search/replica_cost.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>

namespace coterie {
namespace {

constexpr std::int64_t kTokens = 6000;
constexpr int kTurns = 3;            // of all layers, while they add something
constexpr int kRounds = 3;           // of looking for copies that save cost, as each changes what the others save
constexpr int kLightest = 4;         // ranks that an overloaded rank's experts are tried on
constexpr int kHeaviest = 6;         // experts of an overloaded rank that are tried
constexpr double kMargin = 0.99;     // of the load limit: the sample errs a little
constexpr double kRelieved = 0.005;  // of the excess, that a copy must take away to be worth its slot

/// One layer: who has room, who has how much work.
class Layer {
 public:
  Layer(const Problem& problem, ReplicaCost& cost, int layer)
      : problem_(problem),
        cost_(cost),
        layer_(layer),
        left_(problem.replicas),
        room_(problem.ranks(), problem.slots()),
        rows_(cost.rows(layer)) {
    for (const auto& ranks : cost.owners()[layer]) {
      left_ -= static_cast<int>(ranks.size()) - 1;
      for (const int r : ranks) --room_[r];
    }
    const double mean = std::accumulate(rows_.begin(), rows_.end(), 0.0) / problem.ranks();
    limit_ = problem.objective == Objective::load ? mean
             : problem.balance                    ? kMargin * *problem.balance * mean
                                                  : std::numeric_limits<double>::infinity();
  }

  // Copies of the heaviest rank's experts on light ranks, as long as they take rows off the ranks above the limit.
  void relieve() {
    while (left_ > 0 && excess(rows_) > 0) {
      const auto heavy = static_cast<int>(std::max_element(rows_.begin(), rows_.end()) - rows_.begin());
      std::optional<Copy> best;
      double least = excess(rows_) * (1 - kRelieved);
      for (const Copy& copy : ways_out(heavy)) {
        std::vector<double> rows = rows_;
        static_cast<void>(cost_.change(layer_, copy, rows));
        if (excess(rows) >= least) continue;
        least = excess(rows);
        best = copy;
      }
      if (!best) return;
      add(*best);
    }
  }

  // Copies that save cost and make no rank too heavy.
  bool save() {
    bool any = false;
    for (const Copy& copy : cost_.promising(layer_, 2 * static_cast<std::size_t>(problem_.replicas))) {
      if (left_ == 0) return false;
      if (!fits(copy)) continue;
      std::vector<double> rows = rows_;
      if (cost_.change(layer_, copy, rows) >= 0 || excess(rows) > excess(rows_)) continue;
      add(copy);
      any = true;
    }
    return any;
  }

  /// Copies that may still be added.
  [[nodiscard]] int left() const { return left_; }

 private:
  [[nodiscard]] double excess(const std::vector<double>& rows) const {
    double sum = 0;
    for (const double r : rows) sum += std::max(0.0, r - limit_);
    return sum;
  }
  [[nodiscard]] bool fits(const Copy& copy) const {
    const std::vector<int>& ranks = cost_.owners()[layer_][copy.expert];
    return room_[copy.rank] > 0 && !std::binary_search(ranks.begin(), ranks.end(), copy.rank);
  }
  void add(const Copy& copy) {
    static_cast<void>(cost_.change(layer_, copy, rows_));
    cost_.add(layer_, copy);
    --room_[copy.rank];
    --left_;
  }
  [[nodiscard]] std::vector<Copy> ways_out(int heavy) const {
    std::vector<int> experts, ranks(problem_.ranks());
    for (int e = 0; e < problem_.experts(); ++e) {
      const std::vector<int>& owners = cost_.owners()[layer_][e];
      if (std::binary_search(owners.begin(), owners.end(), heavy)) experts.push_back(e);
    }
    const auto load = problem_.statistics.load_at(layer_);
    std::stable_sort(experts.begin(), experts.end(), [&](int a, int b) { return load[a] > load[b]; });
    std::iota(ranks.begin(), ranks.end(), 0);
    std::stable_sort(ranks.begin(), ranks.end(), [&](int a, int b) { return rows_[a] < rows_[b]; });
    std::vector<Copy> copies;
    for (std::size_t i = 0; i < std::min<std::size_t>(kHeaviest, experts.size()); ++i) {
      int tried = 0;
      for (const int r : ranks) {
        if (tried == kLightest) break;
        if (!fits({experts[i], r})) continue;
        copies.push_back({experts[i], r});
        ++tried;
      }
    }
    return copies;
  }

  const Problem& problem_;
  ReplicaCost& cost_;
  int layer_;
  int left_;
  std::vector<int> room_;  // (ranks): free slots
  std::vector<double> rows_;
  double limit_ = 0;
};

}  // namespace

Owners replicate(const Problem& problem, const Assignment& assignment, int threads, const std::function<bool()>& stop) {
  // Tokens tell who carries a replicated expert's rows; without them its ranks share evenly.
  const bool tokens = !problem.traces.empty() && problem.objective != Objective::affinity;
  const auto cost =
      tokens ? make_token_replica_cost(problem, owners_of(assignment), std::make_shared<TokenSample>(problem, kTokens))
             : make_pair_replica_cost(problem, owners_of(assignment));
  // Where a layer's tokens come from depends on the layer before: what did not help may do so the next time.
  bool any = true;
  for (int turn = 0; turn < 2 * kTurns && (any || turn % 2 == 1); ++turn) {
    if (turn % 2 == 0) any = false;
    const int first = turn % 2, count = (problem.layers() - first + 1) / 2;
    std::vector<char> more(count, 0);
    parallel_for(threads, count, [&](std::size_t i) {
      const int l = first + 2 * static_cast<int>(i);
      if (problem.is_fixed(l) || stop()) return;
      Layer layer(problem, *cost, l);
      const int before = layer.left();
      layer.relieve();
      for (int round = 0; problem.objective != Objective::load && round < kRounds && !stop() && layer.save(); ++round) {
      }
      more[i] = layer.left() < before;
    });
    any = any || std::find(more.begin(), more.end(), 1) != more.end();
  }
  return cost->owners();
}

}  // namespace coterie
