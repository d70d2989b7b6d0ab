#include "placement/solvers/layer_step.hpp"

#include "placement/parallel.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <unordered_map>

namespace coterie {
namespace {

constexpr std::size_t kSummed = 64;  // states of the layer before that are summed at a time
constexpr double kRounding = 1e-9;   // of a bound, relative: far more than its sums round

std::vector<std::size_t> touched(const std::vector<std::vector<int>>& items, const std::string& members) {
  std::vector<std::size_t> found;
  for (std::size_t item = 0; item < items.size(); ++item)
    if (std::any_of(items[item].begin(), items[item].end(), [&](int e) { return members[e] != 0; }))
      found.push_back(item);
  return found;
}

}  // namespace

Arrivals::Arrivals(const LayerCosts& costs, int layer, std::span<const LayerState> from, int of_ranks, int threads)
    : states(from.size()), ranks(static_cast<std::size_t>(of_ranks)) {
  const std::size_t items = costs.items(layer).size();
  weight.resize(items * states * ranks);
  parallel_for(threads, states, [&](std::size_t s) {
    std::vector<double> table(items * ranks, 0);
    costs.arrivals(layer, from[s], table);
    for (std::size_t item = 0; item < items; ++item)
      std::copy_n(table.begin() + item * ranks, ranks, weight.begin() + (item * states + s) * ranks);
  });
}

LayerStep::LayerStep(const LayerCosts& costs, int before, std::span<const LayerState> states, const Topology& topology)
    : ranks_(static_cast<std::size_t>(topology.ranks())),
      kept_(costs.kept()),
      matching_(topology, kept_),
      shared_(ranks_ * ranks_) {
  std::unordered_map<std::string, std::size_t> known;
  std::string members;
  for (const LayerState& state : states) {
    for (std::size_t r = 0; r < ranks_; ++r) {
      members.assign(state.size(), 0);
      for (std::size_t e = 0; e < state.size(); ++e) members[e] = static_cast<char>(state[e] == r);
      const auto [at, fresh] = known.try_emplace(members, items_.size());
      group_.push_back(at->second);
      if (fresh) items_.push_back(touched(costs.items(before), members));
    }
  }
}

void LayerStep::sum(const Arrivals& arrivals, std::size_t first, std::size_t last) {
  summed_ = last - first;
  const double elsewhere = std::max(kept_.same_node, kept_.apart);
  const std::size_t columns = summed_ * ranks_;
  sums_.assign(items_.size() * columns, 0);
  most_.resize(items_.size() * summed_);
  for (std::size_t group = 0; group < items_.size(); ++group) {
    double* const to = sums_.data() + group * columns;
    for (const std::size_t item : items_[group]) {
      const double* const from = arrivals.weight.data() + (item * arrivals.states + first) * ranks_;
      for (std::size_t c = 0; c < columns; ++c) to[c] += from[c];
    }
    for (std::size_t s = 0; s < summed_; ++s) {
      const double* const row = to + s * ranks_;
      most_[group * summed_ + s] = elsewhere * std::reduce(row, row + ranks_) +
                                   (kept_.same_rank - elsewhere) * *std::max_element(row, row + ranks_);
    }
  }
}

void LayerStep::share(std::size_t target, std::size_t s) {
  for (std::size_t r = 0; r < ranks_; ++r) {
    const double* const from = sums_.data() + (group_[target * ranks_ + r] * summed_ + s) * ranks_;
    for (std::size_t g = 0; g < ranks_; ++g) shared_[r * ranks_ + g] = from[g];
  }
}

void LayerStep::take(const Arrivals& arrivals, std::span<const double> value, std::size_t first, std::size_t last,
                     std::span<double> best, std::span<std::size_t> from) {
  for (std::size_t some = first; some < last; some += kSummed) {
    sum(arrivals, some, std::min(last, some + kSummed));
    for (std::size_t target = 0; target < best.size(); ++target) {
      bound_.assign(value.begin() + some, value.begin() + some + summed_);
      for (std::size_t r = 0; r < ranks_; ++r) {
        const double* const most = most_.data() + group_[target * ranks_ + r] * summed_;
        for (std::size_t s = 0; s < summed_; ++s) bound_[s] += most[s];
      }
      const auto reached = [&](std::size_t s) {
        share(target, s);
        return value[some + s] + matching_.best(shared_);
      };
      // The most promising one first: few others can be better.
      const std::size_t promising = std::max_element(bound_.begin(), bound_.end()) - bound_.begin();
      double least = std::max(best[target], reached(promising));
      least -= kRounding * std::abs(least);
      for (std::size_t s = 0; s < summed_; ++s) {
        if (bound_[s] < least) continue;
        const double candidate = reached(s);
        if (candidate > best[target]) {
          best[target] = candidate;
          from[target] = some + s;
        }
      }
    }
  }
}

std::vector<int> LayerStep::names(const Arrivals& arrivals, std::size_t source, std::size_t target) {
  sum(arrivals, source, source + 1);
  share(target, 0);
  return matching_.names(shared_);
}

}  // namespace coterie
