#include "placement/search/replica_cost.hpp"

#include <algorithm>

namespace coterie {
namespace {

class TokenReplicaCost final : public ReplicaCost {
 public:
  TokenReplicaCost(const Problem& problem, Owners owners, std::shared_ptr<const TokenSample> sample)
      : ReplicaCost(std::move(owners)),
        problem_(problem),
        sample_(std::move(sample)),
        node_(problem.topology.node_of_rank()),
        price_(link_prices(problem.topology, problem.prices)),
        landing_(owners_.size(), std::vector<int>(sample_->tokens)) {
    std::vector<Stop> stops;
    for (int l = 0; l < problem.layers(); ++l)
      for (int t = 0; t < sample_->tokens; ++t) landing_[l][t] = visit(l, t, resident(l, t), nullptr, stops);
  }

  double change(int layer, const Copy& copy, std::vector<double>& rows) override {
    double sum = 0;
    std::vector<Stop> before, after;
    for (const int t : uses(layer, copy.expert)) {
      const double weight = sample_->weight[t];
      const int from = resident(layer, t);
      const int landing = landing_[layer][t];
      static_cast<void>(visit(layer, t, from, nullptr, before));
      const int then = visit(layer, t, from, &copy, after);
      sum += weight * (cost(from, after, then) - cost(from, before, landing));
      for (const Stop& stop : before) rows[stop.rank] -= weight * stop.choices;
      for (const Stop& stop : after) rows[stop.rank] += weight * stop.choices;
      if (then == landing || layer + 1 == problem_.layers()) continue;
      const int next_before = visit(layer + 1, t, landing, nullptr, before);
      const int next_after = visit(layer + 1, t, then, nullptr, after);
      sum += weight * (cost(then, after, next_after) - cost(landing, before, next_before));
    }
    return sum;
  }

  void add(int layer, const Copy& copy) override {
    ReplicaCost::add(layer, copy);
    std::vector<Stop> stops;
    for (const int t : uses(layer, copy.expert))
      landing_[layer][t] = visit(layer, t, resident(layer, t), nullptr, stops);
  }

  // A copy helps where a token goes to a rank for this expert alone and is on the copy's rank anyway.
  std::vector<Copy> promising(int layer, std::size_t most) override {
    const auto ranks = static_cast<std::size_t>(problem_.ranks());
    std::vector<double> saved(problem_.experts() * ranks, 0);
    std::vector<Stop> stops;
    for (int t = 0; t < sample_->tokens; ++t) {
      const int from = resident(layer, t);
      const int landing = visit(layer, t, from, nullptr, stops);
      for (const Stop& alone : stops) {
        if (alone.choices > 1) continue;
        const double rows = sample_->weight[t] * (price(from, alone.rank) + price(alone.rank, landing));
        const auto offer = [&](int rank) {
          if (rank != alone.rank) saved[alone.expert * ranks + rank] += rows;
        };
        offer(from);
        for (const Stop& other : stops)
          if (other.rank != from) offer(other.rank);
      }
    }
    std::vector<std::pair<double, Copy>> found;
    for (int e = 0; e < problem_.experts(); ++e)
      for (std::size_t r = 0; r < ranks; ++r)
        if (saved[e * ranks + r] > 0) found.push_back({saved[e * ranks + r], {e, static_cast<int>(r)}});
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
    std::vector<Copy> copies;
    for (std::size_t i = 0; i < std::min(most, found.size()); ++i) copies.push_back(found[i].second);
    return copies;
  }

  std::vector<double> rows(int layer) override {
    std::vector<double> rows(problem_.ranks(), 0);
    std::vector<Stop> stops;
    for (int t = 0; t < sample_->tokens; ++t) {
      static_cast<void>(visit(layer, t, resident(layer, t), nullptr, stops));
      for (const Stop& stop : stops) rows[stop.rank] += sample_->weight[t] * stop.choices;
    }
    return rows;
  }

 private:
  // A rank that computes for a token.
  struct Stop {
    int rank;
    int expert;  // the first of its experts
    double sum;  // of gates
    int choices;
  };

  [[nodiscard]] const std::vector<std::int32_t>& uses(int layer, int expert) const {
    return sample_->uses[static_cast<std::size_t>(layer) * problem_.experts() + expert];
  }
  [[nodiscard]] int home(int t) const { return static_cast<int>(sample_->row[t] % problem_.ranks()); }
  [[nodiscard]] int resident(int layer, int t) const { return layer == 0 ? home(t) : landing_[layer - 1][t]; }
  [[nodiscard]] double price(int from, int to) const {
    return price_[static_cast<std::size_t>(from) * problem_.ranks() + to];
  }
  [[nodiscard]] bool in_domain(int rank, int t) const {
    return problem_.domain == Domain::world ||
           (problem_.domain == Domain::node ? node_[rank] == node_[home(t)] : rank == home(t));
  }

  [[nodiscard]] double cost(int from, const std::vector<Stop>& stops, int landing) const {
    double rows = 0;
    bool computes = stops.empty();
    for (const Stop& stop : stops) {
      rows += price(from, stop.rank) + price(stop.rank, landing);
      computes = computes || stop.rank == landing;
    }
    return computes ? rows : rows + price(from, landing);
  }

  // The ranks of a token by problem.hpp's rule for replicas, as if `extra` were there; returns where it lands.
  int visit(int layer, int t, int from, const Copy* extra, std::vector<Stop>& stops) const {
    stops.clear();
    const std::size_t begin = (static_cast<std::size_t>(layer) * sample_->tokens + t) * sample_->width;
    for (int c = 0; c < sample_->width; ++c) {
      const int expert = sample_->experts[begin + c];
      if (expert >= problem_.experts()) break;
      const int rank = rank_of(layer, expert, from, extra && extra->expert == expert ? extra->rank : -1, t, stops);
      const double gate = sample_->gates.empty() ? 1 : sample_->gates[begin + c];
      const auto there = std::find_if(stops.begin(), stops.end(), [&](const Stop& s) { return s.rank == rank; });
      if (there == stops.end()) {
        stops.push_back({rank, expert, gate, 1});
      } else {
        there->sum += gate;
        ++there->choices;
      }
    }
    if (stops.empty()) return from;
    const Stop* best = nullptr;
    for (const Stop& stop : stops)
      if (in_domain(stop.rank, t) &&
          (!best || stop.sum > best->sum || (stop.sum == best->sum && stop.choices > best->choices)))
        best = &stop;
    return best ? best->rank : home(t);
  }

  int rank_of(int layer, int expert, int from, int extra, int t, const std::vector<Stop>& stops) const {
    const std::vector<int>& ranks = owners_[layer][expert];
    if (extra < 0 && ranks.size() == 1) return ranks.front();
    // Three rounds of preference in one pass: 3 visited, 2 in the resident rank's node, 1 any; the n-th of the best.
    int best = 0, count = 0;
    const auto value = [&](int rank) {
      if (std::any_of(stops.begin(), stops.end(), [&](const Stop& s) { return s.rank == rank; })) return 3;
      return node_[rank] == node_[from] ? 2 : 1;
    };
    const auto each = [&](auto&& look) {
      bool waiting = extra >= 0;
      for (const int rank : ranks) {
        if (waiting && extra < rank) {
          waiting = false;
          look(extra);
        }
        look(rank);
      }
      if (waiting) look(extra);
    };
    bool here = false;
    each([&](int rank) {
      here = here || rank == from;
      const int v = value(rank);
      count = v > best ? 1 : v == best ? count + 1 : count;
      best = std::max(best, v);
    });
    if (here) return from;
    auto number = (sample_->row[t] / problem_.ranks()) % count;
    int chosen = ranks.front();
    each([&](int rank) {
      if (value(rank) == best && number-- == 0) chosen = rank;
    });
    return chosen;
  }

  const Problem& problem_;
  std::shared_ptr<const TokenSample> sample_;
  std::vector<int> node_;
  std::vector<double> price_;              // (ranks, ranks)
  std::vector<std::vector<int>> landing_;  // (layers, tokens)
};

}  // namespace

std::unique_ptr<ReplicaCost> make_token_replica_cost(const Problem& problem, Owners owners,
                                                     std::shared_ptr<const TokenSample> sample) {
  return std::make_unique<TokenReplicaCost>(problem, std::move(owners), std::move(sample));
}

}  // namespace coterie
