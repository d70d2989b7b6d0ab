#include "placement/check/optimum_check.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

namespace coterie {
namespace {

constexpr std::size_t kMostStates = 50'000;  // placements of a layer, with all names
constexpr double kMostSteps = 5e9;

using State = std::vector<int>;  // (experts): rank

class OptimumCheck {
 public:
  OptimumCheck(const Plan& plan, std::span<const WeightedTrace> traces, const RecountRules& rules,
               const Recount& recount, const OptimumLimits& limits)
      : plan_(plan), traces_(traces), rules_(rules), recount_(recount), limits_(limits) {}

  std::optional<double> run() {
    State state(plan_.experts);
    std::vector<int> held(plan_.ranks(), 0);
    if (!list(0, state, held)) return std::nullopt;
    std::map<State, std::size_t> number;
    for (const State& s : states_) {
      const auto [at, fresh] = number.try_emplace(first_names(s), classes_.size());
      if (fresh) classes_.push_back(at->first);
      class_of_.push_back(at->second);
    }
    const double items = rules_.objective == "traffic" ? 4.0 * plan_.experts * plan_.experts : plan_.experts;
    if (static_cast<double>(classes_.size()) * states_.size() * items * plan_.layers() > kMostSteps)
      return std::nullopt;
    if (rules_.objective == "load") return lightest();
    if (rules_.objective == "affinity") return affinity();
    return traffic();
  }

 private:
  bool list(int expert, State& state, std::vector<int>& held) {
    if (states_.size() > kMostStates) return false;
    if (expert == plan_.experts) {
      if (*std::min_element(held.begin(), held.end()) >= limits_.fewest) states_.push_back(state);
      return states_.size() <= kMostStates;
    }
    for (int r = 0; r < plan_.ranks(); ++r) {
      if (held[r] == limits_.most) continue;
      state[expert] = r;
      ++held[r];
      const bool more = list(expert + 1, state, held);
      --held[r];
      if (!more) return false;
    }
    return true;
  }

  /// The same placement with ranks, and nodes of one size, named in the order in which the experts use them.
  [[nodiscard]] State first_names(const State& state) const {
    const std::vector<int>& nodes = plan_.topology.ranks_per_node;
    const std::vector<int> node_of = plan_.topology.node_of_rank();
    std::vector<int> begin(nodes.size(), 0);
    for (std::size_t n = 1; n < nodes.size(); ++n) begin[n] = begin[n - 1] + nodes[n - 1];
    std::vector<int> new_node(nodes.size(), -1), used(nodes.size(), 0), name(plan_.ranks(), -1);
    std::vector<bool> taken(nodes.size(), false);
    State renamed;
    for (const int r : state) {
      const int node = node_of[r];
      if (new_node[node] < 0) {
        std::size_t n = 0;
        while (taken[n] || nodes[n] != nodes[node]) ++n;
        taken[n] = true;
        new_node[node] = static_cast<int>(n);
      }
      if (name[r] < 0) name[r] = begin[new_node[node]] + used[node]++;
      renamed.push_back(name[r]);
    }
    return renamed;
  }

  [[nodiscard]] double heaviest(int layer, const State& state) const {
    std::vector<double> rows(plan_.ranks(), 0);
    for (int e = 0; e < plan_.experts; ++e) rows[state[e]] += recount_.load()[layer][e];
    const double all = std::accumulate(rows.begin(), rows.end(), 0.0);
    return all > 0 ? *std::max_element(rows.begin(), rows.end()) * plan_.ranks() / all : 1;
  }
  [[nodiscard]] bool allowed(int layer, const State& state) const {
    return limits_.balance <= 0 || heaviest(layer, state) <= limits_.balance * (1 + 1e-9);
  }

  std::optional<double> lightest() const {
    double sum = 0;
    for (int l = 0; l < plan_.layers(); ++l) {
      double least = std::numeric_limits<double>::infinity();
      for (const State& s : classes_)
        if (allowed(l, s)) least = std::min(least, heaviest(l, s));
      sum += least;
    }
    return sum / plan_.layers();
  }

  /// The least cost of a chain: own(layer, state) of each layer, and step(layer, class, state) between two. `start`
  /// gets a layer and one of its classes ready.
  template <typename Own, typename Start, typename Step>
  std::optional<double> chain(Own own, Start start, Step step) const {
    constexpr double kNone = std::numeric_limits<double>::infinity();
    std::vector<double> cost(classes_.size());
    for (std::size_t c = 0; c < classes_.size(); ++c) cost[c] = allowed(0, classes_[c]) ? own(0, classes_[c]) : kNone;
    for (int l = 1; l < plan_.layers(); ++l) {
      std::vector<double> next(classes_.size(), kNone);
      for (std::size_t c = 0; c < classes_.size(); ++c) {
        if (cost[c] == kNone) continue;
        start(l - 1, classes_[c]);
        for (std::size_t s = 0; s < states_.size(); ++s)
          next[class_of_[s]] = std::min(next[class_of_[s]], cost[c] + step(l, states_[s]));
      }
      for (std::size_t c = 0; c < classes_.size(); ++c)
        next[c] = allowed(l, classes_[c]) ? next[c] + own(l, classes_[c]) : kNone;
      cost = std::move(next);
    }
    const double least = *std::min_element(cost.begin(), cost.end());
    return least == kNone ? std::nullopt : std::optional(least);
  }

  [[nodiscard]] double price(int a, int b) const { return row_price(plan_.topology, rules_, a, b); }

  std::optional<double> affinity() const {
    const int ranks = plan_.ranks();
    double dearest = 0;
    for (int a = 0; a < ranks; ++a)
      for (int b = 0; b < ranks; ++b) dearest = std::max(dearest, price(a, b));
    const double total = recount_.total_pairs();
    if (dearest <= 0 || total <= 0) return 1;
    std::vector<double> moved(static_cast<std::size_t>(plan_.experts) * ranks);  // price of an expert on a rank
    const auto start = [&](int layer, const State& state) {
      std::fill(moved.begin(), moved.end(), 0.0);
      for (int j = 0; j < plan_.experts; ++j)
        for (int r = 0; r < ranks; ++r)
          for (int i = 0; i < plan_.experts; ++i)
            moved[static_cast<std::size_t>(j) * ranks + r] +=
                recount_.pairs()[layer][static_cast<std::size_t>(i) * plan_.experts + j] * price(state[i], r);
    };
    const auto step = [&](int, const State& state) {
      double sum = 0;
      for (int j = 0; j < plan_.experts; ++j) sum += moved[static_cast<std::size_t>(j) * ranks + state[j]];
      return sum;
    };
    const auto cost = chain([](int, const State&) { return 0.0; }, start, step);
    if (!cost) return std::nullopt;
    return 1 - *cost / (dearest * total);
  }

  struct Behaviour {
    RecountChoice here;
    std::vector<int> next;  // experts at the next layer
    double weight;
  };

  /// Tokens by what they do at a layer and at the next; none when a token leaves a layer out.
  std::optional<std::vector<std::vector<Behaviour>>> behaviours() const {
    std::vector<std::vector<Behaviour>> layers(plan_.layers());
    for (int l = 0; l < plan_.layers(); ++l) {
      std::map<std::vector<double>, std::size_t> known;
      for (const WeightedTrace& window : traces_)
        for (std::int64_t t = window.first; t < window_end(window); ++t) {
          RecountChoice here = choice_of(*window.trace, t, l, rules_.top);
          RecountChoice next;
          if (l + 1 < plan_.layers()) next = choice_of(*window.trace, t, l + 1, rules_.top);
          if (here.experts.empty()) return std::nullopt;
          std::sort(next.experts.begin(), next.experts.end());
          // Of two choices only matters which is the heavier.
          if (here.experts.size() == 2 && here.gates[0] != here.gates[1])
            here.gates = here.gates[0] > here.gates[1] ? std::vector{1.0, 0.0} : std::vector{0.0, 1.0};
          std::vector<double> key(here.experts.begin(), here.experts.end());
          key.insert(key.end(), here.gates.begin(), here.gates.end());
          key.insert(key.end(), next.experts.begin(), next.experts.end());
          const auto [at, fresh] = known.try_emplace(std::move(key), layers[l].size());
          if (fresh) layers[l].push_back({here, next.experts, 0});
          layers[l][at->second].weight += window.weight;
        }
    }
    return layers;
  }

  static int landing(const RecountChoice& choice, const State& state, int ranks) {
    std::vector<double> sum(ranks, 0);
    std::vector<int> times(ranks, 0);
    for (std::size_t c = 0; c < choice.experts.size(); ++c) {
      sum[state[choice.experts[c]]] += choice.gates[c];
      ++times[state[choice.experts[c]]];
    }
    int best = state[choice.experts[0]];
    for (const int e : choice.experts)
      if (std::pair(sum[state[e]], times[state[e]]) > std::pair(sum[best], times[best])) best = state[e];
    return best;
  }

  std::optional<double> traffic() const {
    const int ranks = plan_.ranks();
    if (rules_.domain == "node" && plan_.topology.nodes() > 1) return std::nullopt;
    const bool onward = rules_.domain != "rank";
    const auto tokens = behaviours();
    if (!tokens) return std::nullopt;
    std::vector<double> from_home(ranks, 0);
    for (int r = 0; r < ranks; ++r)
      for (int home = 0; home < ranks; ++home) from_home[r] += price(home, r) / ranks;

    const auto own = [&](int layer, const State& state) {
      double rows = 0;
      for (const Behaviour& b : (*tokens)[layer]) {
        const int land = onward ? landing(b.here, state, ranks) : -1;
        std::vector<bool> seen(ranks, false);
        for (const int e : b.here.experts) {
          const int r = state[e];
          if (seen[r]) continue;
          seen[r] = true;
          if (onward)
            rows += b.weight * (price(r, land) + (layer == 0 ? from_home[r] : 0));
          else
            rows += b.weight * 2 * from_home[r];
        }
      }
      return rows;
    };
    // Tokens that arrive at a set of experts, as a price for each rank that may hold some of the set.
    std::vector<std::pair<std::vector<int>, std::vector<double>>> sets;
    const auto start = [&](int layer, const State& state) {
      std::map<std::vector<int>, std::vector<double>> prices;
      for (const Behaviour& b : (*tokens)[layer]) {
        const int land = landing(b.here, state, ranks);
        auto& price_of = prices.try_emplace(b.next, ranks, 0.0).first->second;
        for (int r = 0; r < ranks; ++r) price_of[r] += b.weight * price(land, r);
      }
      sets.assign(prices.begin(), prices.end());
    };
    const auto step = [&](int, const State& state) {
      double rows = 0;
      for (const auto& [experts, price_of] : sets) {
        std::uint64_t seen = 0;
        for (const int e : experts) {
          const std::uint64_t bit = std::uint64_t{1} << state[e];
          if (!(seen & bit)) rows += price_of[state[e]];
          seen |= bit;
        }
      }
      return rows;
    };
    std::optional<double> rows;
    if (onward && ranks <= 64) {
      rows = chain(own, start, step);
    } else if (!onward) {
      rows = chain(
          own, [](int, const State&) {}, [](int, const State&) { return 0.0; });
    }
    if (!rows) return std::nullopt;
    return *rows / (recount_.tokens() * plan_.layers());
  }

  const Plan& plan_;
  std::span<const WeightedTrace> traces_;
  const RecountRules& rules_;
  const Recount& recount_;
  OptimumLimits limits_;
  std::vector<State> states_;          // of a layer, with all names
  std::vector<std::size_t> class_of_;  // (states)
  std::vector<State> classes_;         // one state for all that differ in names
};

}  // namespace

std::optional<double> checked_optimum(const Plan& plan, std::span<const WeightedTrace> traces,
                                      const RecountRules& rules, const Recount& recount, const OptimumLimits& limits) {
  return OptimumCheck(plan, traces, rules, recount, limits).run();
}

}  // namespace coterie
