// Exact dynamic programming along the layers. A state is a way to divide one layer's experts among the ranks, up to
// renaming; between two layers' states the best names are found exactly, so what is optimal for the states is optimal.
#include "placement/solvers/dp_solver.hpp"

#include "placement/input_error.hpp"
#include "placement/parallel.hpp"
#include "placement/solvers/baselines.hpp"
#include "placement/solvers/layer_states.hpp"
#include "placement/solvers/layer_step.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <utility>

namespace coterie {
namespace {

constexpr std::size_t kMostStates = 100'000;  // of a layer: what `--solver dp` takes on
constexpr double kQuickSteps = 1.2e10;        // of work without groups and bounds: a few seconds
constexpr std::size_t kTargets = 256;         // states of the next layer that are one piece of work, at most
constexpr double kNever = -std::numeric_limits<double>::infinity();

int fixed_layers(const Problem& problem) {
  int count = 0;
  for (int l = 0; l < problem.layers(); ++l) count += problem.is_fixed(l);
  return count;
}

std::optional<std::vector<LayerState>> all_states(const Problem& problem, std::size_t limit) {
  const LayerShape shape{.experts = problem.experts(), .fewest = problem.fewest(), .most = problem.most()};
  return layer_states(shape, problem.topology, limit);
}

std::string why_not_exact(const Problem& problem) {
  // With two fixed layers the names in between are no longer free.
  if (fixed_layers(problem) > 1) return "more than one layer is fixed";
  return why_not_layered(problem);
}

/// The ways of one layer that keep its limits.
std::vector<LayerState> states_of_layer(const Problem& problem, int layer, const std::vector<LayerState>& all) {
  if (problem.is_fixed(layer)) return {LayerState(problem.fixed[layer].begin(), problem.fixed[layer].end())};
  const double limit = problem.load_limit(layer);
  const auto load = problem.statistics.load_at(layer);
  std::vector<LayerState> kept;
  std::vector<double> rows(problem.ranks());
  double lightest = std::numeric_limits<double>::infinity();
  for (const LayerState& state : all) {
    std::fill(rows.begin(), rows.end(), 0.0);
    for (std::size_t e = 0; e < state.size(); ++e) rows[state[e]] += load[e];
    const double heaviest = *std::max_element(rows.begin(), rows.end());
    lightest = std::min(lightest, heaviest);
    if (heaviest <= limit) kept.push_back(state);
  }
  if (kept.empty()) {
    const double mean = std::accumulate(load.begin(), load.end(), 0.0) / problem.ranks();
    throw InputError("infeasible: load limit " + std::to_string(*problem.balance) + ": layer " + std::to_string(layer) +
                     ": the heaviest rank has at least " + std::to_string(lightest / mean) + " times the mean");
  }
  return kept;
}

/// One run: forward through the layers, then back along the best states.
class Chain {
 public:
  Chain(const Problem& problem, const SolveOptions& options, const std::vector<LayerState>& all)
      : problem_(problem), options_(options), costs_(make_layer_costs(problem)) {
    for (int l = 0; l < problem.layers(); ++l) states_.push_back(states_of_layer(problem, l, all));
  }

  /// False when it was stopped: the layers that are done are the best possible, the others were added greedily.
  bool run() {
    std::vector<std::pair<int, std::size_t>> all;  // layers and their states
    std::vector<std::vector<double>> own;
    for (int l = 0; l < problem_.layers(); ++l) {
      for (std::size_t t = 0; t < states_[l].size(); ++t) all.emplace_back(l, t);
      own.emplace_back(states_[l].size());
    }
    parallel_for(options_.threads, all.size(), [&](std::size_t i) {
      const auto [l, t] = all[i];
      own[l][t] = costs_->own(l, states_[l][t]);
    });
    bool whole = true;
    for (int l = 0; l < problem_.layers(); ++l) {
      value_.emplace_back(states_[l].size());
      from_.emplace_back(states_[l].size(), 0);
      if (l > 0) whole = reach(l, whole);
      for (std::size_t t = 0; t < own[l].size(); ++t) value_[l][t] += own[l][t];
    }
    return whole;
  }

  [[nodiscard]] Assignment assignment() const {
    const int layers = problem_.layers();
    std::vector<std::size_t> chosen(layers);
    chosen[layers - 1] = best_of(layers - 1);
    for (int l = layers - 1; l > 0; --l) chosen[l - 1] = from_[l][chosen[l]];

    std::vector<int> name(problem_.ranks());
    std::iota(name.begin(), name.end(), 0);
    Assignment assignment;
    std::vector<int> fixed_name;
    for (int l = 0; l < layers; ++l) {
      const LayerState& state = states_[l][chosen[l]];
      if (l > 0 && costs_->coupled()) {
        const Arrivals arrivals(*costs_, l - 1, {&states_[l - 1][chosen[l - 1]], 1}, problem_.ranks(), 1);
        std::vector<int> before = LayerStep(*costs_, l - 1, {&state, 1}, problem_.topology).names(arrivals, 0, 0);
        for (int& g : before) g = name[g];
        name = std::move(before);
      }
      if (problem_.is_fixed(l)) fixed_name = name;
      auto& row = assignment.emplace_back();
      for (const std::uint8_t g : state) row.push_back(name[g]);
    }
    if (!fixed_name.empty()) {  // the names in which the fixed layer is as it is given
      std::vector<int> back(fixed_name.size());
      for (std::size_t g = 0; g < back.size(); ++g) back[fixed_name[g]] = static_cast<int>(g);
      for (auto& row : assignment)
        for (int& r : row) r = back[r];
    }
    return assignment;
  }

 private:
  /// Fills value_ and from_ of a layer; from all states of the layer before, or, once stopped, from the best one.
  bool reach(int layer, bool whole) {
    const std::vector<LayerState>& before = states_[layer - 1];
    if (!costs_->coupled()) {
      const std::size_t best = best_of(layer - 1);
      std::fill(value_[layer].begin(), value_[layer].end(), value_[layer - 1][best]);
      std::fill(from_[layer].begin(), from_[layer].end(), best);
      return whole;
    }
    const auto stopped = [&] { return options_.stop && *options_.stop; };
    whole = whole && !stopped();
    const std::size_t best = best_of(layer - 1);
    const std::size_t first = whole ? 0 : best;
    const std::size_t last = whole ? before.size() : best + 1;
    const std::size_t count = states_[layer].size();
    const std::size_t pieces = (count + kTargets - 1) / kTargets;
    const int threads = pieces > 1 ? options_.threads : 1;  // to start them takes longer than one piece
    const Arrivals arrivals(*costs_, layer - 1, std::span(before).subspan(first, last - first), problem_.ranks(),
                            threads);
    const auto values = std::span<const double>(value_[layer - 1]).subspan(first, last - first);
    std::fill(value_[layer].begin(), value_[layer].end(), kNever);
    std::atomic<bool> cut = false;
    parallel_for(threads, pieces, [&](std::size_t piece) {
      if (whole && stopped()) cut = true;
      const std::size_t begin = piece * count / pieces, end = (piece + 1) * count / pieces;
      LayerStep step(*costs_, layer - 1, std::span(states_[layer]).subspan(begin, end - begin), problem_.topology);
      step.take(arrivals, values, cut ? best - first : 0, cut ? best - first + 1 : values.size(),
                std::span(value_[layer]).subspan(begin, end - begin),
                std::span(from_[layer]).subspan(begin, end - begin));
      for (std::size_t t = begin; t < end; ++t) from_[layer][t] += first;
    });
    return whole && !cut;
  }

  [[nodiscard]] std::size_t best_of(int layer) const {
    return std::max_element(value_[layer].begin(), value_[layer].end()) - value_[layer].begin();
  }

  const Problem& problem_;
  const SolveOptions& options_;
  std::unique_ptr<LayerCosts> costs_;
  std::vector<std::vector<LayerState>> states_;  // (layers)
  std::vector<std::vector<double>> value_;       // (layers, states): best gain of the layers so far that ends here
  std::vector<std::vector<std::size_t>> from_;   // (layers, states): the state of the layer before
};

class DpSolver final : public Solver {
 public:
  std::string_view name() const noexcept override { return "dp"; }

  Solution solve(const Problem& problem, const SolveOptions& options) const override {
    const auto start = std::chrono::steady_clock::now();
    if (const std::string broken = check_feasible(problem); !broken.empty()) throw InputError(broken);
    if (const std::string reason = why_not_exact(problem); !reason.empty())
      throw InputError("solver dp: " + reason + "; expected a problem that falls apart into layers, try --solver auto");
    const auto all = all_states(problem, kMostStates);
    if (!all)
      throw InputError("solver dp: " + std::to_string(problem.experts()) + " experts on " +
                       std::to_string(problem.ranks()) + " ranks: found more than " + std::to_string(kMostStates) +
                       " ways to place a layer, expected fewer; try --solver auto");
    Chain chain(problem, options, *all);
    const bool whole = chain.run();
    Solution solution = finished(problem, chain.assignment(), name(), start);
    if (!whole && options.start && check_limits(problem, *options.start).empty() &&
        better(problem.objective, evaluate(problem, *options.start), solution.value))
      solution = finished(problem, *options.start, name(), start);
    solution.interrupted = !whole;
    if (whole) solution.bound = Bound{.value = solution.value, .kind = "dp", .seconds = solution.seconds};
    return solution;
  }
};

}  // namespace

std::string why_dp_does_not_fit(const Problem& problem) {
  if (std::string reason = why_not_exact(problem); !reason.empty()) return reason;
  const auto all = all_states(problem, kMostStates);
  if (!all) return "there are more than " + std::to_string(kMostStates) + " ways to place a layer";
  const double states = static_cast<double>(all->size());
  const double ranks = problem.ranks();
  if (problem.objective == Objective::load) return {};
  double steps = states * states * ranks * (problem.experts() + ranks * ranks);
  if (problem.objective == Objective::traffic) {
    double sets = 1;  // distinct sets of experts that tokens choose, at most
    double tokens = 0;
    int top_k = 1;
    for (const WeightedTrace& part : problem.traces) {
      top_k = std::max(top_k, problem.top > 0 ? std::min(problem.top, part.trace->top_k) : part.trace->top_k);
      tokens += static_cast<double>(part.trace->tokens());
    }
    for (int c = 0; c < std::min(top_k, problem.experts()); ++c)
      sets *= static_cast<double>(problem.experts() - c) / (c + 1);
    sets = std::min(sets, tokens);
    const double patterns = top_k <= 2 ? std::min(tokens, 2 * sets) : tokens;
    const double pairs = std::min(tokens, patterns * sets);
    steps = problem.domain == Domain::rank ? 0 : states * states * ranks * (top_k * sets + ranks * ranks);
    steps += states * (10 * patterns + pairs);
  }
  steps *= problem.layers() - (problem.objective == Objective::affinity ? 1 : 0);
  return steps <= kQuickSteps ? std::string() : "it would take more than a few seconds";
}

std::unique_ptr<Solver> make_dp_solver() {
  return std::make_unique<DpSolver>();
}

}  // namespace coterie
