#include "placement/check/optimum_check.hpp"

#include "placement/parallel.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

namespace coterie {
namespace {

constexpr std::size_t kMostStates = 2'000'000;  // placements of a layer, with all names
constexpr double kMostSteps = 7e10;             // ten minutes of two cores
constexpr std::size_t kPieces = 64;             // of work

using State = std::vector<int>;  // (experts): rank

/// Goes through all placements of a layer, under all names, always in the same order.
class AllStates {
 public:
  AllStates(int experts, int ranks, const OptimumLimits& limits) : limits_(limits), state_(experts), held_(ranks, 0) {}

  /// add(expert, rank) is the cost of an expert on a rank; leaf(state, sum of costs) returns whether to go on.
  template <typename Add, typename Leaf>
  bool each(Add add, Leaf leaf, std::size_t expert = 0, double sum = 0) {
    const int left = static_cast<int>(state_.size() - expert);
    int owed = 0;
    for (const int held : held_) owed += std::max(0, limits_.fewest - held);
    if (owed > left) return true;
    if (left == 0) return leaf(state_, sum);
    for (int r = 0; r < static_cast<int>(held_.size()); ++r) {
      if (held_[r] == limits_.most) continue;
      state_[expert] = r;
      ++held_[r];
      const bool more = each(add, leaf, expert + 1, sum + add(static_cast<int>(expert), r));
      --held_[r];
      if (!more) return false;
    }
    return true;
  }

 private:
  OptimumLimits limits_;
  State state_;
  std::vector<int> held_;  // (ranks)
};

/// All placements of a layer, sorted by what they are but for names.
class Placements {
 public:
  Placements(const Topology& topology, int experts, const OptimumLimits& limits)
      : topology_(topology), experts_(experts), limits_(limits) {
    std::map<State, int> number;
    complete_ = states().each([](int, int) { return 0; },
                              [&](const State& state, double) {
                                const auto [at, fresh] =
                                    number.try_emplace(first_names(state), static_cast<int>(classes_.size()));
                                if (fresh) classes_.push_back(at->first);
                                class_of_.push_back(at->second);
                                return class_of_.size() < kMostStates;
                              });
  }

  /// Whether going through them for every pair of layers is not too much work.
  [[nodiscard]] bool are_few(int layers, const std::string& objective) const {
    const double each = objective == "traffic" ? 4.0 * experts_ * experts_ : 2;
    return complete_ &&
           static_cast<double>(classes_.size()) * static_cast<double>(class_of_.size()) * each * layers <= kMostSteps;
  }

  [[nodiscard]] AllStates states() const { return {experts_, topology_.ranks(), limits_}; }
  /// (placements, in the order of `states`)
  [[nodiscard]] const std::vector<int>& class_of() const { return class_of_; }
  /// One placement for all that differ in names.
  [[nodiscard]] const std::vector<State>& classes() const { return classes_; }

 private:
  /// The same placement with ranks, and nodes of one size, named in the order in which the experts use them.
  [[nodiscard]] State first_names(const State& state) const {
    const std::vector<int>& nodes = topology_.ranks_per_node;
    const std::vector<int> node_of = topology_.node_of_rank();
    std::vector<int> begin(nodes.size(), 0);
    for (std::size_t n = 1; n < nodes.size(); ++n) begin[n] = begin[n - 1] + nodes[n - 1];
    std::vector<int> new_node(nodes.size(), -1), used(nodes.size(), 0), name(topology_.ranks(), -1);
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

  const Topology& topology_;
  int experts_;
  OptimumLimits limits_;
  std::vector<int> class_of_;
  std::vector<State> classes_;
  bool complete_ = false;
};

class OptimumCheck {
 public:
  OptimumCheck(const Plan& plan, std::span<const WeightedTrace> traces, const RecountRules& rules,
               const Recount& recount, const OptimumLimits& limits)
      : plan_(plan),
        traces_(traces),
        rules_(rules),
        recount_(recount),
        limits_(limits),
        placements_(plan.topology, plan.experts, limits),
        class_of_(placements_.class_of()),
        classes_(placements_.classes()) {}

  std::optional<double> run() {
    if (!placements_.are_few(plan_.layers(), rules_.objective)) return std::nullopt;
    if (rules_.objective == "load") return lightest();
    if (rules_.objective == "affinity") return affinity();
    return traffic();
  }

 private:
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

  /// The least cost of a chain: own(layer, state) of each layer, and between two what a Step(layer, class) says:
  /// add(expert, rank) of the next layer's experts, and whole(state).
  template <typename Own, typename Step>
  std::optional<double> chain(Own own, Step step) const {
    constexpr double kNone = std::numeric_limits<double>::infinity();
    std::vector<double> cost(classes_.size(), 0);
    for (int l = 0; l < plan_.layers(); ++l) {
      if (l > 0) cost = reached(l - 1, cost, step);
      parallel_for(0, kPieces, [&](std::size_t piece) {
        for (std::size_t c = piece; c < classes_.size(); c += kPieces)
          cost[c] = cost[c] < kNone && allowed(l, classes_[c]) ? cost[c] + own(l, classes_[c]) : kNone;
      });
    }
    const double least = *std::min_element(cost.begin(), cost.end());
    return least == kNone ? std::nullopt : std::optional(least);
  }

  /// The least cost of every class of the layer after `layer`, its own cost left out.
  template <typename Step>
  std::vector<double> reached(int layer, const std::vector<double>& cost, Step step) const {
    constexpr double kNone = std::numeric_limits<double>::infinity();
    std::vector<std::vector<double>> pieces(kPieces, std::vector<double>(classes_.size(), kNone));
    parallel_for(0, kPieces, [&](std::size_t piece) {
      AllStates states = placements_.states();
      std::vector<double>& next = pieces[piece];
      for (std::size_t c = piece; c < classes_.size(); c += kPieces) {
        if (cost[c] == kNone) continue;
        const auto costs = step(layer, classes_[c]);
        std::size_t number = 0;
        states.each([&](int expert, int rank) { return costs.add(expert, rank); },
                    [&](const State& state, double sum) {
                      double& best = next[class_of_[number++]];
                      best = std::min(best, cost[c] + sum + costs.whole(state));
                      return true;
                    });
      }
    });
    std::vector<double> next(classes_.size(), kNone);
    for (const auto& piece : pieces)
      for (std::size_t c = 0; c < next.size(); ++c) next[c] = std::min(next[c], piece[c]);
    return next;
  }

  [[nodiscard]] double price(int a, int b) const { return row_price(plan_.topology, rules_, a, b); }

  std::optional<double> affinity() const {
    const int ranks = plan_.ranks();
    double dearest = 0;
    for (int a = 0; a < ranks; ++a)
      for (int b = 0; b < ranks; ++b) dearest = std::max(dearest, price(a, b));
    const double total = recount_.total_pairs();
    if (dearest <= 0 || total <= 0) return 1;
    struct Moved {
      int ranks;
      std::vector<double> price;  // (experts of the next layer, ranks)
      [[nodiscard]] double add(int expert, int rank) const {
        return price[static_cast<std::size_t>(expert) * ranks + rank];
      }
      [[nodiscard]] static double whole(const State&) { return 0; }
    };
    const auto step = [&](int layer, const State& state) {
      Moved moved{ranks, std::vector<double>(static_cast<std::size_t>(plan_.experts) * ranks, 0)};
      for (int j = 0; j < plan_.experts; ++j)
        for (int r = 0; r < ranks; ++r)
          for (int i = 0; i < plan_.experts; ++i)
            moved.price[static_cast<std::size_t>(j) * ranks + r] +=
                recount_.pairs()[layer][static_cast<std::size_t>(i) * plan_.experts + j] * price(state[i], r);
      return moved;
    };
    const auto cost = chain([](int, const State&) { return 0.0; }, step);
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
    // A node of one rank is a rank, and a node of all is the world.
    const auto& nodes = plan_.topology.ranks_per_node;
    const bool by_node = rules_.domain == "node" && nodes.size() > 1;
    if (by_node && *std::max_element(nodes.begin(), nodes.end()) > 1) return std::nullopt;
    const bool onward = rules_.domain != "rank" && !by_node;
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
    struct Arrivals {
      std::vector<std::pair<std::vector<int>, std::vector<double>>> sets;
      [[nodiscard]] static double add(int, int) { return 0; }
      [[nodiscard]] double whole(const State& state) const {
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
      }
    };
    const auto step = [&](int layer, const State& state) {
      std::map<std::vector<int>, std::vector<double>> prices;
      for (const Behaviour& b : onward ? (*tokens)[layer] : std::vector<Behaviour>()) {
        const int land = landing(b.here, state, ranks);
        auto& price_of = prices.try_emplace(b.next, ranks, 0.0).first->second;
        for (int r = 0; r < ranks; ++r) price_of[r] += b.weight * price(land, r);
      }
      return Arrivals{{prices.begin(), prices.end()}};
    };
    if (onward && ranks > 64) return std::nullopt;
    const auto rows = chain(own, step);
    if (!rows) return std::nullopt;
    return *rows / (recount_.tokens() * plan_.layers());
  }

  const Plan& plan_;
  std::span<const WeightedTrace> traces_;
  const RecountRules& rules_;
  const Recount& recount_;
  OptimumLimits limits_;
  Placements placements_;
  const std::vector<int>& class_of_;
  const std::vector<State>& classes_;
};

}  // namespace

bool can_check_optimum(const Topology& topology, int layers, int experts, const std::string& objective,
                       const OptimumLimits& limits) {
  return Placements(topology, experts, limits).are_few(layers, objective);
}

std::optional<double> checked_optimum(const Plan& plan, std::span<const WeightedTrace> traces,
                                      const RecountRules& rules, const Recount& recount, const OptimumLimits& limits) {
  return OptimumCheck(plan, traces, rules, recount, limits).run();
}

}  // namespace coterie
