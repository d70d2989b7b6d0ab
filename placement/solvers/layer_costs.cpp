#include "placement/solvers/layer_costs.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <map>
#include <numeric>
#include <span>
#include <stdexcept>
#include <unordered_map>
#include <utility>

namespace coterie {
namespace {

constexpr int kLargestSet = 64;  // experts, for sets of them in one word

class AffinityCosts final : public LayerCosts {
 public:
  explicit AffinityCosts(const Problem& problem)
      : statistics_(problem.statistics),
        ranks_(problem.ranks()),
        kept_(kept_shares(problem.topology, problem.prices)),
        items_(problem.experts()) {
    for (int j = 0; j < problem.experts(); ++j) items_[j] = {j};
  }

  double own(int, const LayerState&) const override { return 0; }
  bool coupled() const override { return true; }
  Kept kept() const override { return kept_; }
  const std::vector<std::vector<int>>& items(int) const override { return items_; }
  double arrival_steps(int) const override { return static_cast<double>(items_.size()) * items_.size(); }

  void arrivals(int layer, const LayerState& state, std::span<double> weight) const override {
    const auto w = statistics_.affinity_at(layer);
    const std::size_t experts = state.size();
    for (std::size_t i = 0; i < experts; ++i)
      for (std::size_t j = 0; j < experts; ++j) weight[j * ranks_ + state[i]] += w[i * experts + j];
  }

 private:
  const Statistics& statistics_;
  int ranks_;
  Kept kept_;
  std::vector<std::vector<int>> items_;
};

class LoadCosts final : public LayerCosts {
 public:
  explicit LoadCosts(const Problem& problem) : statistics_(problem.statistics), ranks_(problem.ranks()) {}

  double own(int layer, const LayerState& state) const override {
    const auto load = statistics_.load_at(layer);
    std::vector<double> rows(ranks_, 0);
    for (std::size_t e = 0; e < state.size(); ++e) rows[state[e]] += load[e];
    const double mean = std::accumulate(rows.begin(), rows.end(), 0.0) / ranks_;
    return mean > 0 ? -*std::max_element(rows.begin(), rows.end()) / mean : -1;
  }
  bool coupled() const override { return false; }
  Kept kept() const override { return {}; }
  const std::vector<std::vector<int>>& items(int) const override { return none_; }
  void arrivals(int, const LayerState&, std::span<double>) const override {}
  double arrival_steps(int) const override { return 0; }

 private:
  const Statistics& statistics_;
  int ranks_;
  std::vector<std::vector<int>> none_;
};

// A token's choices at a layer, as far as its landing depends on them.
struct Pattern {
  std::vector<int> experts;   // in the order of the choices
  std::vector<double> gates;  // empty: the most choices decide, then the earliest
};

// What tokens do at a layer and on the way to the next, each distinct behaviour once.
struct LayerTokens {
  std::vector<Pattern> patterns;
  std::vector<double> pattern_weight;  // (patterns)
  std::vector<std::vector<int>> sets;  // experts of a token without their order
  std::vector<double> set_weight;      // (sets)
  struct Step {
    int pattern;  // at this layer
    int set;      // at the next
    double weight;
  };
  std::vector<Step> steps;
};

// Collects the distinct behaviours of a layer.
class Collector {
 public:
  explicit Collector(LayerTokens& layer) : layer_(layer) {}

  /// With two choices only their order by gate matters, with more their gates may add up to anything. May change the
  /// pattern to another that lands alike.
  int pattern(Pattern& pattern, double weight) {
    if (pattern.experts.size() <= 2) {
      if (pattern.gates.size() == 2 && pattern.gates[1] > pattern.gates[0])
        std::swap(pattern.experts[0], pattern.experts[1]);
      pattern.gates.clear();
    }
    int found = static_cast<int>(layer_.patterns.size());
    if (pattern.gates.empty()) {
      found = patterns_.try_emplace(pattern.experts, found).first->second;
    }
    if (found == static_cast<int>(layer_.patterns.size())) {
      layer_.patterns.push_back(pattern);
      layer_.pattern_weight.push_back(0);
    }
    layer_.pattern_weight[found] += weight;
    return found;
  }

  int set(const std::vector<int>& experts, double weight) {
    std::uint64_t members = 0;
    for (const int e : experts) members |= std::uint64_t{1} << e;
    const auto [at, fresh] = sets_.try_emplace(members, static_cast<int>(layer_.sets.size()));
    if (fresh) {
      std::vector<int> sorted;
      for (std::uint64_t rest = members; rest != 0; rest &= rest - 1) sorted.push_back(std::countr_zero(rest));
      layer_.sets.push_back(std::move(sorted));
      layer_.set_weight.push_back(0);
    }
    layer_.set_weight[at->second] += weight;
    return at->second;
  }

  void step(int pattern, int set, double weight) {
    const auto [at, fresh] =
        steps_.try_emplace(static_cast<std::uint64_t>(pattern) << 32 | static_cast<unsigned>(set), layer_.steps.size());
    if (fresh) layer_.steps.push_back({pattern, set, 0});
    layer_.steps[at->second].weight += weight;
  }

 private:
  LayerTokens& layer_;
  std::map<std::vector<int>, int> patterns_;
  std::unordered_map<std::uint64_t, int> sets_;
  std::unordered_map<std::uint64_t, std::size_t> steps_;
};

/// A token's choices at a layer, empty places included.
std::span<const std::uint16_t> places(const Problem& problem, const Trace& trace, std::int64_t token, int layer) {
  const int top = problem.top > 0 ? std::min(problem.top, trace.top_k) : trace.top_k;
  const std::size_t begin = (static_cast<std::size_t>(token) * trace.layers() + layer) * trace.top_k;
  return std::span(trace.experts).subspan(begin, top);
}

void read_choices(const Problem& problem, const Trace& trace, std::int64_t token, int layer, Pattern& pattern) {
  pattern.experts.clear();
  pattern.gates.clear();
  const auto experts = places(problem, trace, token, layer);
  const auto first = experts.data() - trace.experts.data();
  for (std::size_t c = 0; c < experts.size(); ++c) {
    if (experts[c] == Trace::kNoExpert) continue;
    pattern.experts.push_back(experts[c]);
    if (!trace.weights.empty()) pattern.gates.push_back(trace.weights[first + c]);
  }
}

template <typename Visit>  // (const WeightedTrace&, token)
void for_each_token(const Problem& problem, Visit visit) {
  for (const WeightedTrace& part : problem.traces) {
    const std::int64_t all = part.trace->tokens();
    const std::int64_t last = part.count < 0 ? all : std::min(all, part.first + part.count);
    for (std::int64_t t = part.first; t < last; ++t) visit(part, t);
  }
}

std::vector<LayerTokens> collect(const Problem& problem) {
  std::vector<LayerTokens> layers(problem.layers());
  std::vector<Collector> collectors(layers.begin(), layers.end());
  Pattern pattern;
  for_each_token(problem, [&](const WeightedTrace& part, std::int64_t t) {
    int before = -1;
    for (int l = 0; l < problem.layers(); ++l) {
      read_choices(problem, *part.trace, t, l, pattern);
      if (pattern.experts.empty()) continue;
      const int set = collectors[l].set(pattern.experts, part.weight);
      if (l > 0 && before >= 0) collectors[l - 1].step(before, set, part.weight);
      before = collectors[l].pattern(pattern, part.weight);
    }
  });
  return layers;
}

// The ranks that compute for a token, and where it lands: problem.hpp has the rules.
class Visits {
 public:
  explicit Visits(int ranks) : sum_(ranks), choices_(ranks) {}

  void visit(const Pattern& pattern, const LayerState& state) {
    const std::vector<int>& experts = pattern.experts;
    if (experts.size() <= 2) {  // the short way, for most traces: the Collector put the larger gate first
      landing_ = state[experts.front()];
      ranks_.assign(1, landing_);
      if (state[experts.back()] != landing_) ranks_.push_back(state[experts.back()]);
      return;
    }
    ranks_.clear();
    for (const int e : experts) sum_[state[e]] = choices_[state[e]] = 0;
    for (std::size_t c = 0; c < experts.size(); ++c) {
      const int r = state[experts[c]];
      if (choices_[r] == 0) ranks_.push_back(r);
      sum_[r] += pattern.gates.empty() ? 1 : pattern.gates[c];
      ++choices_[r];
    }
    landing_ = ranks_.front();
    for (const int r : ranks_)
      if (sum_[r] > sum_[landing_] || (sum_[r] == sum_[landing_] && choices_[r] > choices_[landing_])) landing_ = r;
  }
  [[nodiscard]] const std::vector<int>& ranks() const { return ranks_; }
  [[nodiscard]] int landing() const { return landing_; }

 private:
  std::vector<double> sum_, choices_;  // (ranks)
  std::vector<int> ranks_;             // in the order of the choices
  int landing_ = 0;
};

/// Domains `world` (pairs of layers matter) and `rank` (they don't: tokens are always at home).
class TrafficCosts final : public LayerCosts {
 public:
  TrafficCosts(const Problem& problem, bool coherent)
      : problem_(problem),
        coherent_(coherent),
        price_(link_prices(problem.topology, problem.prices)),
        home_price_(problem.ranks(), 0),
        layers_(collect(problem)) {
    const int ranks = problem.ranks();
    for (int r = 0; r < ranks; ++r)
      for (int home = 0; home < ranks; ++home) home_price_[r] += price_[home * ranks + r] / ranks;
  }

  double own(int layer, const LayerState& state) const override {
    const LayerTokens& tokens = layers_[layer];
    double rows = 0;
    if (!coherent_ || layer == 0) {
      for (std::size_t s = 0; s < tokens.sets.size(); ++s) {
        std::uint64_t seen[4] = {};
        for (const int e : tokens.sets[s]) {
          std::uint64_t& word = seen[state[e] / 64];
          const std::uint64_t bit = std::uint64_t{1} << (state[e] % 64);
          if (!(word & bit)) rows += (coherent_ ? 1 : 2) * tokens.set_weight[s] * home_price_[state[e]];
          word |= bit;
        }
      }
    }
    if (!coherent_) return -rows;
    Visits visits(problem_.ranks());
    for (std::size_t p = 0; p < tokens.patterns.size(); ++p) {
      visits.visit(tokens.patterns[p], state);
      const int landing = visits.landing();
      for (const int r : visits.ranks())
        rows += tokens.pattern_weight[p] * price_[static_cast<std::size_t>(r) * problem_.ranks() + landing];
    }
    return -rows;
  }

  bool coupled() const override { return coherent_; }
  Kept kept() const override {
    return {.same_rank = 0, .same_node = -problem_.prices.inside_node, .apart = -problem_.prices.between_nodes};
  }
  const std::vector<std::vector<int>>& items(int layer) const override { return layers_[layer + 1].sets; }
  double arrival_steps(int layer) const override {
    return 10.0 * layers_[layer].patterns.size() + layers_[layer].steps.size();
  }

  void arrivals(int layer, const LayerState& state, std::span<double> weight) const override {
    const LayerTokens& tokens = layers_[layer];
    Visits visits(problem_.ranks());
    std::vector<int> landing(tokens.patterns.size());
    for (std::size_t p = 0; p < landing.size(); ++p) {
      visits.visit(tokens.patterns[p], state);
      landing[p] = visits.landing();
    }
    for (const LayerTokens::Step& step : tokens.steps)
      weight[static_cast<std::size_t>(step.set) * problem_.ranks() + landing[step.pattern]] += step.weight;
  }

 private:
  const Problem& problem_;
  bool coherent_;
  std::vector<double> price_;       // (ranks, ranks)
  std::vector<double> home_price_;  // (ranks): mean over all homes
  std::vector<LayerTokens> layers_;
};

// Nodes of one rank make a domain of one rank, one node makes it the world.
bool coherent(const Problem& problem) {
  const auto& nodes = problem.topology.ranks_per_node;
  return problem.domain == Domain::world || (problem.domain == Domain::node && nodes.size() == 1 && nodes[0] > 1);
}

bool some_token_skips_a_layer(const Problem& problem) {
  bool skips = false;
  for_each_token(problem, [&](const WeightedTrace& part, std::int64_t t) {
    for (int l = 0; l < problem.layers() && !skips; ++l)
      skips = std::ranges::all_of(places(problem, *part.trace, t, l), [](auto e) { return e == Trace::kNoExpert; });
  });
  return skips;
}

}  // namespace

std::string why_not_layered(const Problem& problem) {
  if (problem.replicas > 0) return "replicas make where an expert runs depend on the token";
  if (problem.objective != Objective::traffic) return {};
  if (problem.experts() > kLargestSet) return "traffic of more than " + std::to_string(kLargestSet) + " experts";
  const auto& nodes = problem.topology.ranks_per_node;
  const bool single = std::all_of(nodes.begin(), nodes.end(), [](int ranks) { return ranks == 1; });
  if (problem.domain == Domain::node && nodes.size() > 1 && !single)
    return "traffic of domain node depends on each token's home";
  if (coherent(problem) && some_token_skips_a_layer(problem))
    return "a token without experts at a layer ties layers together that are not neighbours";
  return {};
}

std::unique_ptr<LayerCosts> make_layer_costs(const Problem& problem) {
  switch (problem.objective) {
    case Objective::affinity:
      return std::make_unique<AffinityCosts>(problem);
    case Objective::load:
      return std::make_unique<LoadCosts>(problem);
    case Objective::traffic:
      return std::make_unique<TrafficCosts>(problem, coherent(problem));
  }
  throw std::logic_error("objective without costs");
}

}  // namespace coterie
