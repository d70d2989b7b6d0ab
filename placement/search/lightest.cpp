#include "placement/search/lightest.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <numeric>

namespace coterie {
namespace {

constexpr int kKicks = 3000;

// A layer's state with the rows and experts of every rank.
class Layer {
 public:
  Layer(std::span<const double> load, int ranks, int fewest, int most)
      : load_(load), fewest_(fewest), most_(most), state_(load.size(), -1), rows_(ranks, 0), count_(ranks, 0) {}

  void deal_largest_first() {
    std::vector<int> order(load_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return load_[a] > load_[b]; });
    int left = static_cast<int>(order.size());
    int owed = fewest_ * ranks();  // experts that ranks below `fewest` still need
    for (const int e : order) {
      int best = -1;
      for (int r = 0; r < ranks(); ++r) {
        if (count_[r] >= most_ || (owed == left && count_[r] >= fewest_)) continue;
        if (best < 0 || rows_[r] < rows_[best]) best = r;
      }
      if (count_[best] < fewest_) --owed;
      put(e, best);
      --left;
    }
  }

  // Moves and swaps between the heaviest rank and others while the heavier of the two gets lighter.
  void relieve() {
    while (relieve_once()) {
    }
  }

  void kick(SplitMix& random) {
    for (int i = 0; i < 3; ++i) {
      const int e = random.below(static_cast<int>(state_.size()));
      const int f = random.below(static_cast<int>(state_.size()));
      const int from = state_[e], to = state_[f];
      if (from == to) continue;
      take(e);
      take(f);
      put(e, to);
      put(f, from);
    }
  }

  [[nodiscard]] double heaviest() const { return *std::max_element(rows_.begin(), rows_.end()); }
  [[nodiscard]] const std::vector<int>& state() const { return state_; }

 private:
  [[nodiscard]] int ranks() const { return static_cast<int>(rows_.size()); }
  void put(int e, int r) {
    state_[e] = r;
    rows_[r] += load_[e];
    ++count_[r];
  }
  void take(int e) {
    rows_[state_[e]] -= load_[e];
    --count_[state_[e]];
  }

  bool relieve_once() {
    const int heavy = static_cast<int>(std::max_element(rows_.begin(), rows_.end()) - rows_.begin());
    // The margin keeps rounding from going round in circles.
    double best = rows_[heavy] * (1 - 1e-12);
    int given = -1, to = -1, back = -1;
    const auto offer = [&](int e, int r, int f) {
      const double moved = load_[e] - (f >= 0 ? load_[f] : 0);
      const double heavier = std::max(rows_[heavy] - moved, rows_[r] + moved);
      if (heavier >= best) return;
      best = heavier;
      given = e;
      to = r;
      back = f;
    };
    for (int e = 0; e < static_cast<int>(state_.size()); ++e) {
      if (state_[e] != heavy) continue;
      for (int f = 0; f < static_cast<int>(state_.size()); ++f)
        if (state_[f] != heavy) offer(e, state_[f], f);
      for (int r = 0; r < ranks() && count_[heavy] > fewest_; ++r)
        if (r != heavy && count_[r] < most_) offer(e, r, -1);
    }
    if (given < 0) return false;
    take(given);
    put(given, to);
    if (back >= 0) {
      take(back);
      put(back, heavy);
    }
    return true;
  }

  std::span<const double> load_;
  int fewest_, most_;
  std::vector<int> state_;    // (experts): rank
  std::vector<double> rows_;  // (ranks)
  std::vector<int> count_;    // (ranks)
};

}  // namespace

double heaviest_rank(std::span<const double> load, const std::vector<int>& state, int ranks) {
  std::vector<double> rows(ranks, 0);
  for (std::size_t e = 0; e < state.size(); ++e) rows[state[e]] += load[e];
  return *std::max_element(rows.begin(), rows.end());
}

std::vector<int> lightest_layer(std::span<const double> load, int ranks, int fewest, int most, int kicks, double enough,
                                SplitMix& random) {
  Layer best(load, ranks, fewest, most);
  best.deal_largest_first();
  best.relieve();
  for (int i = 0; i < kicks && best.heaviest() > enough; ++i) {
    Layer next = best;
    next.kick(random);
    next.relieve();
    if (next.heaviest() <= best.heaviest()) best = std::move(next);
  }
  return best.state();
}

LightestLayer lightest_of_worst_layer(const Problem& problem, std::uint64_t seed) {
  LightestLayer worst;
  for (int l = 0; l < problem.layers(); ++l) {
    const auto load = problem.statistics.load_at(l);
    const double mean = std::accumulate(load.begin(), load.end(), 0.0) / problem.ranks();
    if (mean <= 0) continue;
    SplitMix random(seed + static_cast<unsigned>(l));
    // Lighter than what the limit asks for, or than the worst layer so far, need not be known.
    const double enough = mean * std::max(worst.over_mean, problem.balance.value_or(1));
    const std::vector<int> state =
        lightest_layer(load, problem.ranks(), problem.fewest(), problem.most(), kKicks, enough, random);
    const double over_mean = heaviest_rank(load, state, problem.ranks()) / mean;
    if (over_mean > worst.over_mean) worst = {l, over_mean};
  }
  return worst;
}

Assignment feasible_assignment(const Problem& problem, std::uint64_t seed) {
  if (std::string broken = check_feasible(problem); !broken.empty()) throw InputError(broken);
  Assignment assignment = contiguous_assignment(problem);
  for (int l = 0; l < problem.layers(); ++l) {
    const auto load = problem.statistics.load_at(l);
    if (problem.is_fixed(l)) {
      assignment[l] = problem.fixed[l];
      continue;
    }
    if (heaviest_rank(load, assignment[l], problem.ranks()) <= problem.load_limit(l)) continue;
    SplitMix random(seed + static_cast<unsigned>(l));
    assignment[l] =
        lightest_layer(load, problem.ranks(), problem.fewest(), problem.most(), kKicks, problem.load_limit(l), random);
    const double heaviest = heaviest_rank(load, assignment[l], problem.ranks());
    if (heaviest <= problem.load_limit(l)) continue;
    const double mean = std::accumulate(load.begin(), load.end(), 0.0) / problem.ranks();
    std::array<char, 160> text{};
    std::snprintf(text.data(), text.size(),
                  "infeasible: load limit %.7g: layer %d: the heaviest rank of the lightest placement found has %.4g "
                  "times the mean",
                  *problem.balance, l, heaviest / mean);
    throw InputError(text.data());
  }
  return assignment;
}

}  // namespace coterie
