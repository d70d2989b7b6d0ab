// Search models, and the parts that searches are made of, against counting from scratch.
#include "placement/search/annealing.hpp"
#include "placement/search/layer_pool.hpp"
#include "placement/search/lightest.hpp"
#include "placement/search/pair_model.hpp"
#include "placement/search/traffic_model.hpp"
#include "placement/search/transport.hpp"
#include "tests/placement/random_problem.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

namespace coterie {
namespace {

Assignment random_assignment(const Problem& problem, SplitMix& random) {
  Assignment assignment = contiguous_assignment(problem);
  for (auto& layer : assignment)
    for (int e = problem.experts() - 1; e > 0; --e) std::swap(layer[e], layer[random.below(e + 1)]);
  return assignment;
}

Exchange random_exchange(const Problem& problem, const Assignment& assignment, SplitMix& random) {
  while (true) {
    Exchange x{random.below(problem.layers()), random.below(problem.experts()), random.below(problem.ranks()), -1};
    if (assignment[x.layer][x.expert] == x.to) continue;
    const auto& layer = assignment[x.layer];
    const int other = random.below(problem.experts());
    if (layer[other] == x.to) x.other = other;
    return x;
  }
}

/// Every change that the model predicts is what counting from scratch finds, also after many exchanges.
void expect_true_to(SearchModel& model, const Problem& problem, const std::function<double(const Assignment&)>& cost,
                    std::uint64_t seed) {
  SplitMix random(seed);
  Assignment assignment = random_assignment(problem, random);
  model.restart(assignment);
  double now = cost(assignment);
  EXPECT_NEAR(model.cost(), now, 1e-4 * (1 + std::abs(now)));
  for (int i = 0; i < 60; ++i) {
    const Exchange x = random_exchange(problem, assignment, random);
    const int from = assignment[x.layer][x.expert];
    assignment[x.layer][x.expert] = x.to;
    if (x.other >= 0) assignment[x.layer][x.other] = from;
    const double then = cost(assignment);
    ASSERT_NEAR(model.change(x), then - now, 1e-3 * (1 + std::abs(now))) << "seed " << seed << ", exchange " << i;
    model.apply(x);
    ASSERT_EQ(model.assignment(), assignment);
    now = then;
  }
  EXPECT_NEAR(model.cost(), now, 1e-4 * (1 + std::abs(now)));
}

/// Tokens that skip a layer are the one thing that the model of traffic simplifies.
void fill_first_choices(Trace& trace) {
  for (std::size_t i = 0; i < trace.experts.size(); i += trace.top_k) {
    const auto begin = trace.experts.begin() + static_cast<std::ptrdiff_t>(i);
    for (std::uint16_t e = 0; *begin == Trace::kNoExpert; ++e)
      if (std::find(begin, begin + trace.top_k, e) == begin + trace.top_k) *begin = e;
  }
}

const std::vector<Topology> kTopologies{{{4}}, {{2, 2}}, {{3, 1, 2}}};

TEST(PairModel, CountsPriceTimesWeight) {
  std::uint64_t seed = 0;
  for (const Topology& topology : kTopologies)
    for (const double within : {0.0, 1.0}) {
      auto [trace, problem] = random_problem({.top_k = 3}, topology, ++seed);
      problem.prices = {1, 3};
      const std::vector<double> price = link_prices(problem.topology, problem.prices);
      const Statistics& s = problem.statistics;
      PairModel model(problem, std::make_shared<PairWeights>(s, 0.5, within));
      expect_true_to(
          model, problem,
          [&, ranks = problem.ranks()](const Assignment& a) {
            double sum = 0;
            const auto n = static_cast<std::size_t>(s.experts);
            for (int l = 0; l < s.layers; ++l)
              for (std::size_t i = 0; i < n; ++i)
                for (std::size_t j = 0; j < n; ++j) {
                  if (l + 1 < s.layers) sum += 0.5 * s.affinity_at(l)[i * n + j] * price[a[l][i] * ranks + a[l + 1][j]];
                  if (i < j) sum += within * s.coactivation_at(l)[i * n + j] * price[a[l][i] * ranks + a[l][j]];
                }
            return sum;
          },
          seed);
    }
}

TEST(TrafficModel, CountsWhatMeasureCounts) {
  std::uint64_t seed = 0;
  for (const Topology& topology : kTopologies)
    for (const Domain domain : {Domain::rank, Domain::node, Domain::world})
      for (const bool weights : {false, true}) {
        auto [trace, problem] = random_problem({.tokens = 120, .top_k = 3, .weights = weights}, topology, ++seed);
        fill_first_choices(*trace);
        problem.statistics = plain_statistics(*trace);
        problem.domain = domain;
        TrafficModel model(problem, std::make_shared<TokenSample>(problem, 1'000'000));
        const double steps = problem.statistics.tokens * problem.layers();
        expect_true_to(
            model, problem, [&problem = problem, steps](const Assignment& a) { return evaluate(problem, a) * steps; },
            seed);
      }
}

TEST(TokenSample, WeighsAsTheTracesDo) {
  auto [trace, problem] = random_problem({.tokens = 900}, {{2}}, 4);
  problem.traces = {{trace.get(), 2, 0, 300}, {trace.get(), 1, 300, -1}};
  const TokenSample sample(problem, 100);
  EXPECT_NEAR(sample.tokens, 100, 1);
  EXPECT_NEAR(std::accumulate(sample.weight.begin(), sample.weight.end(), 0.0), 2 * 300 + 600, 15);
  EXPECT_EQ(TokenSample(problem, 5000).tokens, 900);
}

TEST(BestOfPool, IsTheBestOfAllItsStatesAndNames) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    auto [trace, problem] =
        random_problem({.tokens = 100, .layers = 3, .experts = 6, .top_k = 1 + static_cast<int>(seed % 2)},
                       seed % 3 == 0 ? Topology{{2, 1}} : Topology{{3}}, seed);
    fill_first_choices(*trace);
    problem.statistics = plain_statistics(*trace);
    TrafficModel model(problem, std::make_shared<TokenSample>(problem, 1000));
    SplitMix random(seed);
    std::vector<Assignment> pool;
    for (int i = 0; i < 3; ++i) pool.push_back(random_assignment(problem, random));
    // All choices of a state for every layer, under all allowed names of ranks.
    std::vector<std::vector<int>> names;
    std::vector<int> name(problem.ranks());
    std::iota(name.begin(), name.end(), 0);
    const std::vector<int> node = problem.topology.node_of_rank();
    do {
      bool allowed = true;
      for (int r = 0; r < problem.ranks(); ++r) allowed = allowed && node[name[r]] == node[r];
      if (allowed) names.push_back(name);
    } while (std::next_permutation(name.begin(), name.end()));
    double best = std::numeric_limits<double>::infinity();
    const std::size_t choices = pool.size() * names.size();
    for (std::size_t i = 0; i < choices * choices * choices; ++i) {
      Assignment candidate;
      for (std::size_t l = 0, rest = i; l < 3; ++l, rest /= choices) {
        candidate.push_back(pool[rest % pool.size()][l]);
        for (int& rank : candidate.back()) rank = names[rest / pool.size() % names.size()][rank];
      }
      best = std::min(best, evaluate(problem, candidate));
    }
    EXPECT_NEAR(evaluate(problem, best_of_pool(problem, model, pool, 2, [] { return false; })), best, 1e-5)
        << "seed " << seed;
  }
}

TEST(BestTransport, IsTheBestOfAllAssignments) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SplitMix random(seed);
    const int bins = 1 + random.below(4), items = 1 + random.below(6);
    const bool loose = random.below(3) == 0;
    const int fewest = loose ? 0 : items / bins;
    const int most = loose ? items : (items + bins - 1) / bins;
    std::vector<double> gain(static_cast<std::size_t>(items) * bins);
    for (double& g : gain) g = random.below(2) == 0 ? random.below(5) : 1000 * random.unit() - 500;
    const auto sum_of = [&](const std::vector<int>& bin) {
      double sum = 0;
      for (int i = 0; i < items; ++i) sum += gain[static_cast<std::size_t>(i) * bins + bin[i]];
      return sum;
    };
    double best = -std::numeric_limits<double>::infinity();
    std::vector<int> bin(items, 0);
    for (bool more = true; more;) {
      std::vector<int> held(bins, 0);
      for (const int b : bin) ++held[b];
      if (*std::min_element(held.begin(), held.end()) >= fewest && *std::max_element(held.begin(), held.end()) <= most)
        best = std::max(best, sum_of(bin));
      more = false;
      for (int i = 0; i < items && !more; ++i) {
        more = ++bin[i] < bins;
        if (!more) bin[i] = 0;
      }
    }
    const std::vector<int> found = best_transport(gain, bins, fewest, most);
    EXPECT_NEAR(sum_of(found), best, 1e-6) << "seed " << seed;
    std::vector<int> held(bins, 0);
    for (const int b : found) ++held[b];
    EXPECT_GE(*std::min_element(held.begin(), held.end()), fewest);
    EXPECT_LE(*std::max_element(held.begin(), held.end()), most);
  }
}

TEST(LightestLayer, IsNearTheBestOfAllAndKeepsTheCounts) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SplitMix random(seed);
    const int ranks = 2 + random.below(2), experts = 5 + random.below(4);
    std::vector<double> load(experts);
    for (double& l : load) l = 1 + random.below(100);
    const int fewest = experts / ranks, most = (experts + ranks - 1) / ranks;
    const std::vector<int> found = lightest_layer(load, ranks, fewest, most, 500, 0, random);
    double best = std::numeric_limits<double>::infinity();
    std::vector<int> state(experts, 0);
    for (bool more = true; more;) {
      std::vector<int> held(ranks, 0);
      for (const int r : state) ++held[r];
      if (*std::min_element(held.begin(), held.end()) >= fewest && *std::max_element(held.begin(), held.end()) <= most)
        best = std::min(best, heaviest_rank(load, state, ranks));
      more = false;
      for (int i = 0; i < experts && !more; ++i) {
        more = ++state[i] < ranks;
        if (!more) state[i] = 0;
      }
    }
    EXPECT_DOUBLE_EQ(heaviest_rank(load, found, ranks), best) << "seed " << seed;
    std::vector<int> held(ranks, 0);
    for (const int r : found) ++held[r];
    EXPECT_GE(*std::min_element(held.begin(), held.end()), fewest);
    EXPECT_LE(*std::max_element(held.begin(), held.end()), most);
  }
}

TEST(Anneal, ComesOutTheSameForAnyNumberOfThreads) {
  auto [trace, problem] = random_problem({.layers = 6, .top_k = 2}, {{4}}, 8);
  problem.balance = 1.3;
  const auto sample = std::make_shared<TokenSample>(problem, 1000);
  SplitMix start(1);
  const Assignment from = random_assignment(problem, start);
  const std::vector<int> layers{0, 1, 2, 3, 4, 5};
  const std::function<bool()> never = [] { return false; };
  std::vector<Assignment> found;
  for (const int threads : {1, 2, 5}) {
    TrafficModel model(problem, sample);
    Ledger ledger(problem);
    model.restart(from);
    ledger.restart(from);
    SplitMix random(3);
    const Search search{model, ledger, layers, 2, never, threads};
    anneal(search, {20000, 30, 0.5}, random);
    descend(search);
    found.push_back(model.assignment());
    EXPECT_LT(evaluate(problem, found.back()), evaluate(problem, from));
  }
  EXPECT_EQ(found[0], found[1]);
  EXPECT_EQ(found[0], found[2]);
}

}  // namespace
}  // namespace coterie
