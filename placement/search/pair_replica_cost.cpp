#include "placement/search/replica_cost.hpp"

#include <algorithm>

namespace coterie {

void ReplicaCost::add(int layer, const Copy& copy) {
  std::vector<int>& ranks = owners_[layer][copy.expert];
  ranks.insert(std::lower_bound(ranks.begin(), ranks.end(), copy.rank), copy.rank);
}

namespace {

class PairReplicaCost final : public ReplicaCost {
 public:
  PairReplicaCost(const Problem& problem, Owners owners)
      : ReplicaCost(std::move(owners)), problem_(problem), price_(link_prices(problem.topology, problem.prices)) {}

  double change(int layer, const Copy& copy, std::vector<double>& rows) override {
    const std::vector<int>& ranks = owners_[layer][copy.expert];
    const double load = problem_.statistics.load_at(layer)[copy.expert];
    const auto count = static_cast<double>(ranks.size());
    for (const int r : ranks) rows[r] -= load / count - load / (count + 1);
    rows[copy.rank] += load / (count + 1);
    return -saved(layer, copy);
  }

  std::vector<Copy> promising(int layer, std::size_t most) override {
    std::vector<std::pair<double, Copy>> found;
    for (int e = 0; e < problem_.experts(); ++e)
      for (int r = 0; r < problem_.ranks(); ++r) {
        const double gain = saved(layer, {e, r});
        if (gain > 0) found.push_back({gain, {e, r}});
      }
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<Copy> copies;
    for (std::size_t i = 0; i < std::min(most, found.size()); ++i) copies.push_back(found[i].second);
    return copies;
  }

  std::vector<double> rows(int layer) override {
    std::vector<double> rows(problem_.ranks(), 0);
    for (int e = 0; e < problem_.experts(); ++e)
      for (const int r : owners_[layer][e])
        rows[r] += problem_.statistics.load_at(layer)[e] / static_cast<double>(owners_[layer][e].size());
    return rows;
  }

 private:
  // Weight x price that the copy takes off the expert's pairs; a pair pays for its nearest ranks.
  [[nodiscard]] double saved(int layer, const Copy& copy) const {
    if (problem_.objective != Objective::affinity) return 0;
    const auto n = static_cast<std::size_t>(problem_.experts());
    double sum = 0;
    const auto pair = [&](double weight, const std::vector<int>& partner) {
      if (weight == 0) return;
      double before = price(owners_[layer][copy.expert].front(), partner.front()), after = before;
      for (const int p : partner) {
        for (const int r : owners_[layer][copy.expert]) before = std::min(before, price(r, p));
        after = std::min(after, price(copy.rank, p));
      }
      if (after < before) sum += weight * (before - after);
    };
    for (std::size_t i = 0; i < n; ++i) {
      if (layer > 0) pair(problem_.statistics.affinity_at(layer - 1)[i * n + copy.expert], owners_[layer - 1][i]);
      if (layer + 1 < problem_.layers())
        pair(problem_.statistics.affinity_at(layer)[copy.expert * n + i], owners_[layer + 1][i]);
    }
    return sum;
  }
  [[nodiscard]] double price(int a, int b) const { return price_[static_cast<std::size_t>(a) * problem_.ranks() + b]; }

  const Problem& problem_;
  std::vector<double> price_;  // (ranks, ranks)
};

}  // namespace

std::unique_ptr<ReplicaCost> make_pair_replica_cost(const Problem& problem, Owners owners) {
  return std::make_unique<PairReplicaCost>(problem, std::move(owners));
}

}  // namespace coterie
