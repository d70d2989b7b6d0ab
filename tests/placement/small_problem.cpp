#include "tests/placement/small_problem.hpp"

#include <algorithm>
#include <bit>
#include <numeric>
#include <random>

namespace coterie {

Trace small_trace(const SmallShape& shape, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const auto unit = [&] { return std::uniform_real_distribution<double>(0, 1)(random); };
  Trace trace;
  trace.model = "random";
  trace.num_experts = shape.experts;
  trace.top_k = shape.top_k;
  trace.layer_ids.resize(shape.layers);
  std::iota(trace.layer_ids.begin(), trace.layer_ids.end(), 0);
  // Each expert has a favourite successor; the first choice often follows it, the others follow the first.
  std::vector<std::vector<int>> next(shape.layers, std::vector<int>(shape.experts));
  for (auto& layer : next) {
    std::iota(layer.begin(), layer.end(), 0);
    std::shuffle(layer.begin(), layer.end(), random);
  }
  for (int t = 0; t < shape.tokens; ++t) {
    int before = static_cast<int>(random() % shape.experts);
    for (int l = 0; l < shape.layers; ++l) {
      std::vector<int> order(shape.experts);
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), random);
      if (unit() < shape.structure) std::swap(*std::find(order.begin(), order.end(), next[l][before]), order[0]);
      before = order[0];
      std::vector<float> gates;
      for (int c = 0; c < shape.top_k; ++c) {
        const bool skip = unit() < shape.skipped;
        trace.experts.push_back(skip ? Trace::kNoExpert : static_cast<std::uint16_t>(order[c]));
        gates.push_back(static_cast<float>(unit()));
      }
      std::sort(gates.rbegin(), gates.rend());
      if (shape.gates) trace.weights.insert(trace.weights.end(), gates.begin(), gates.end());
    }
  }
  return trace;
}

void SmallProblem::recount() {
  problem.statistics = count(problem.traces, {.by_gate = problem.objective == Objective::affinity, .top = problem.top});
}

SmallProblem small_problem(const SmallShape& shape, const Topology& topology, std::uint64_t seed) {
  SmallProblem made;
  made.trace = std::make_shared<Trace>(small_trace(shape, seed));
  made.problem.objective = Objective::affinity;
  made.problem.topology = topology;
  made.problem.balance = std::nullopt;
  made.problem.traces = {{.trace = made.trace.get()}};
  made.recount();
  return made;
}

namespace {

class Search {
 public:
  explicit Search(const Problem& problem) : problem_(problem) {
    for (int l = 0; l < problem.layers(); ++l) {
      std::vector<std::vector<int>> rows;
      std::vector<int> row(problem.experts());
      rows_of(l, 0, row, rows);
      rows_.push_back(std::move(rows));
    }
  }

  std::optional<Best> run() {
    Assignment assignment(problem_.layers());
    extend(0, assignment);
    return best_;
  }

 private:
  void rows_of(int layer, int expert, std::vector<int>& row, std::vector<std::vector<int>>& rows) const {
    if (expert == problem_.experts()) {
      Problem one = window_of(problem_, layer, 1);
      if (check_limits(one, Assignment{row}).empty()) rows.push_back(row);
      return;
    }
    const bool same_names = layer == 0 && problem_.topology.nodes() == 1 && problem_.fixed.empty();
    const int used = expert == 0 ? 0 : *std::max_element(row.begin(), row.begin() + expert) + 1;
    const int last = same_names ? std::min(used + 1, problem_.ranks()) : problem_.ranks();
    for (row[expert] = 0; row[expert] < last; ++row[expert]) {
      if (std::count(row.begin(), row.begin() + expert + 1, row[expert]) > problem_.most()) continue;
      const int rank = row[expert];
      rows_of(layer, expert + 1, row, rows);
      row[expert] = rank;
    }
  }

  void extend(int layer, Assignment& assignment) {
    if (layer == problem_.layers()) {
      const double value = evaluate(problem_, assignment);
      if (!best_ || better(problem_.objective, value, best_->value)) best_ = Best{assignment, value};
      return;
    }
    for (const auto& row : rows_[layer]) {
      assignment[layer] = row;
      extend(layer + 1, assignment);
    }
  }

  const Problem& problem_;
  std::vector<std::vector<std::vector<int>>> rows_;  // (layers): all ways to place a layer
  std::optional<Best> best_;
};

}  // namespace

namespace {

// A layer's owners: a set of ranks for every expert, as bits.
void owners_of_layer(const Problem& problem, std::vector<unsigned>& sets, std::size_t expert, int copies,
                     std::vector<std::vector<std::vector<int>>>& found) {
  if (expert == sets.size()) {
    std::vector<std::vector<int>> layer;
    std::vector<int> held(problem.ranks(), 0);
    for (const unsigned set : sets) {
      auto& ranks = layer.emplace_back();
      for (int r = 0; r < problem.ranks(); ++r)
        if (set >> r & 1U) ranks.push_back(r), ++held[r];
    }
    if (*std::max_element(held.begin(), held.end()) <= problem.slots()) found.push_back(layer);
    return;
  }
  for (unsigned set = 1; set < 1U << problem.ranks(); ++set) {
    const int more = std::popcount(set) - 1;
    if (more > copies) continue;
    sets[expert] = set;
    owners_of_layer(problem, sets, expert + 1, copies - more, found);
  }
}

}  // namespace

std::optional<BestOwners> best_owners_of_all(const Problem& problem) {
  std::vector<std::vector<std::vector<int>>> layer;
  std::vector<unsigned> sets(problem.experts());
  owners_of_layer(problem, sets, 0, problem.replicas, layer);
  std::optional<BestOwners> best;
  Owners owners(problem.layers());
  const auto extend = [&](const auto& self, int l) -> void {
    if (l == problem.layers()) {
      if (!check_limits(problem, owners).empty()) return;
      const double value = evaluate(problem, owners);
      if (!best || better(problem.objective, value, best->value)) best = BestOwners{owners, value};
      return;
    }
    for (const auto& choice : layer) {
      owners[l] = choice;
      self(self, l + 1);
    }
  };
  extend(extend, 0);
  return best;
}

std::optional<Best> best_of_all(const Problem& problem) {
  return Search(problem).run();
}

}  // namespace coterie
