#include "placement/trace/statistics.hpp"

#include "placement/input_error.hpp"
#include "placement/trace/load_trace.hpp"
#include "placement/trace/trace_facts.hpp"
#include "tests/placement/mutate.hpp"
#include "tests/placement/scratch_folder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

namespace coterie {
namespace {

Trace random_trace(std::uint64_t seed, int tokens, int layers, int k, int experts, bool with_weights) {
  std::mt19937 random(static_cast<unsigned>(seed));
  Trace t;
  t.num_experts = experts;
  t.top_k = k;
  t.layer_ids.resize(static_cast<std::size_t>(layers));
  std::iota(t.layer_ids.begin(), t.layer_ids.end(), 1);
  std::vector<std::uint16_t> all(static_cast<std::size_t>(experts));
  std::iota(all.begin(), all.end(), 0);
  for (int i = 0; i < tokens * layers; ++i) {
    std::shuffle(all.begin(), all.end(), random);
    for (int j = 0; j < k; ++j) {
      t.experts.push_back(random() % 7 == 0 ? Trace::kNoExpert : all[j]);
      if (with_weights) t.weights.emplace_back(static_cast<float>(random() % 1000 + 1000 * (k - j)) / 1000.F);
    }
  }
  validate(t, "random trace");
  return t;
}

/// The definition, loop by loop.
Statistics reference(const std::vector<WeightedTrace>& traces, bool by_gate, int top) {
  Statistics s;
  s.layers = traces[0].trace->layers();
  s.experts = traces[0].trace->num_experts;
  const std::size_t n = s.experts;
  s.load.resize(s.layers * n);
  s.affinity.resize((s.layers - 1) * n * n);
  s.coactivation.resize(s.layers * n * n);
  for (const WeightedTrace& w : traces) {
    const Trace& t = *w.trace;
    const int k = top == 0 ? t.top_k : std::min(top, t.top_k);
    const std::int64_t end = w.count < 0 ? t.tokens() : w.first + w.count;
    s.tokens += w.weight * static_cast<double>(end - w.first);
    for (std::int64_t token = w.first; token < end; ++token) {
      const auto at = [&](int l, int i) { return (token * t.layers() + l) * t.top_k + i; };
      const auto gate = [&](int l, int i) -> double {
        return by_gate && !t.weights.empty() ? float(t.weights[at(l, i)]) : 1;
      };
      for (int l = 0; l < s.layers; ++l)
        for (int i = 0; i < k; ++i) {
          const std::size_t a = t.experts[at(l, i)];
          if (a == Trace::kNoExpert) continue;
          s.load[l * n + a] += w.weight;
          for (int j = 0; j < k; ++j) {
            const std::size_t b = t.experts[at(l, j)];
            if (j != i && b != Trace::kNoExpert)
              s.coactivation[(l * n + a) * n + b] += w.weight * gate(l, i) * gate(l, j);
            if (l + 1 == s.layers) continue;
            const std::size_t c = t.experts[at(l + 1, j)];
            if (c != Trace::kNoExpert) s.affinity[(l * n + a) * n + c] += w.weight * gate(l, i) * gate(l + 1, j);
          }
        }
    }
  }
  return s;
}

void expect_near(const std::vector<double>& a, const std::vector<double>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-12 * (1 + b[i])) << i;
}

TEST(Statistics, EqualTheDefinition) {
  for (const bool weights : {false, true})
    for (const int top : {0, 1, 2})
      for (const bool by_gate : {false, true}) {
        const Trace a = random_trace(1, 40, 3, 3, 6, weights);
        const Trace b = random_trace(2, 30, 3, 2, 6, !weights);
        const std::vector<WeightedTrace> traces{{&a, 2, 5, 20}, {&b, .5}};
        const Statistics got = count(traces, {by_gate, top, 2});
        const Statistics want = reference(traces, by_gate, top);
        EXPECT_EQ(got.layers, want.layers);
        EXPECT_EQ(got.experts, want.experts);
        EXPECT_DOUBLE_EQ(got.tokens, want.tokens);
        expect_near(got.load, want.load);
        expect_near(got.affinity, want.affinity);
        expect_near(got.coactivation, want.coactivation);
      }
}

TEST(Statistics, DoNotDependOnTheNumberOfThreads) {
  const Trace a = random_trace(3, 200, 5, 4, 9, true);
  const std::vector<WeightedTrace> traces{{&a}};
  const Statistics one = count(traces, {true, 0, 1});
  for (const int threads : {2, 3, 8}) EXPECT_EQ(count(traces, {true, 0, threads}).affinity, one.affinity);
}

TEST(Statistics, TopOneWithoutPaddingCountsEachTokenOnce) {
  const Trace a = random_trace(4, 1, 2, 1, 2, false);
  const std::vector<WeightedTrace> traces{{&a}};
  EXPECT_EQ(count(traces).coactivation, std::vector<double>(8)) << "a single choice has no companion";
}

TEST(Statistics, WhatCannotBeCountedIsRefused) {
  const Trace a = random_trace(5, 10, 2, 2, 4, false);
  Trace b = a;
  const auto refused = [&](const WeightedTrace& w, int top = 0) {
    const std::vector<WeightedTrace> traces{{&a}, w};
    EXPECT_THROW(static_cast<void>(count(traces, {true, top, 1})), InputError);
  };
  EXPECT_THROW(static_cast<void>(count(std::vector<WeightedTrace>{})), InputError);
  refused({&b, -1});
  refused({&b, std::numeric_limits<double>::quiet_NaN()});
  refused({&b, 1, -1});
  refused({&b, 1, 10});
  refused({&b, 1, 5, 6});
  refused({&b, 1, 5, std::numeric_limits<std::int64_t>::max()});
  b.gate_order = GateOrder::unordered;
  refused({&b}, 1);
  b = a;
  b.layer_ids[1] = 7;
  refused({&b});
  b = a;
  b.num_experts = 5;
  refused({&b});
}

TEST(TraceFacts, AffinityRunsFromNoneToComplete) {
  Statistics s;
  s.layers = 3;
  s.experts = 2;
  s.affinity = {1, 1, 1, 1, 0, 3, 1, 0};
  const auto strength = affinity_strength(s);
  ASSERT_EQ(strength.size(), 2U);
  EXPECT_DOUBLE_EQ(strength[0].top_successor, .5);
  EXPECT_DOUBLE_EQ(strength[0].independent, .5);
  EXPECT_NEAR(strength[0].mutual_information, 0, 1e-15);
  EXPECT_DOUBLE_EQ(strength[1].top_successor, 1);
  EXPECT_DOUBLE_EQ(strength[1].independent, .75);
  EXPECT_NEAR(strength[1].mutual_information, .25 * 2 + .75 * std::log2(4. / 3), 1e-15) << "the entropy of the expert";
}

TEST(TraceFacts, SkewIsMeasuredAgainstTheMean) {
  Statistics s;
  s.layers = 1;
  s.experts = 4;
  s.load = {6, 0, 1, 1};
  const auto skew = load_skew(s);
  EXPECT_DOUBLE_EQ(skew[0].heaviest, 3);
  EXPECT_DOUBLE_EQ(skew[0].lightest, 0);
  EXPECT_EQ(skew[0].idle, 1);
}

TEST(TraceFacts, ConsistencyComparesNeighboursOfASequenceOnly) {
  Trace t;
  t.num_experts = 4;
  t.top_k = 2;
  t.layer_ids = {0};
  t.experts = {0, 1, 1, 0, 1, 2, 3, 0};
  EXPECT_TRUE(routing_consistency(t).empty()) << "nothing says which tokens are neighbours";
  t.sequence = {0, 0, 0, 1};
  const auto consistency = routing_consistency(t);
  ASSERT_EQ(consistency.size(), 1U);
  EXPECT_DOUBLE_EQ(consistency[0].overlap, (1 + .5) / 2);
  EXPECT_DOUBLE_EQ(consistency[0].independent, (.25 + 1 + .25) / 2) << "experts 0, 1, 2 with p = 1/2, 1, 1/2";
  t.position = {0, 1, 5, 0};
  EXPECT_DOUBLE_EQ(routing_consistency(t)[0].overlap, 1) << "token 2 does not stand behind token 1";
}

LoadTrace small_load() {
  return {"m", 3, 2, {4, 5}, {1, 2, 3, 3, 3, 0, 70000, 0, 0, 1, 2, 3}};
}

TEST(LoadTrace, WhatIsWrittenIsReadAndCounted) {
  const ScratchFolder folder;
  write_load_trace(folder / "l.safetensors", small_load());
  EXPECT_TRUE(is_load_trace(folder / "l.safetensors"));
  const LoadTrace load = read_load_trace(folder / "l.safetensors");
  EXPECT_EQ(load.counts, small_load().counts);
  EXPECT_EQ(load.layer_ids, small_load().layer_ids);
  EXPECT_EQ(load.records(), 2);
  const Statistics all = count(load);
  EXPECT_EQ(all.load, (std::vector<double>{70001, 2, 3, 4, 5, 3}));
  EXPECT_EQ(all.tokens, 35003);
  EXPECT_TRUE(all.affinity.empty());
  EXPECT_EQ(count(load, 0, 1).load, (std::vector<double>{1, 2, 3, 3, 3, 0}));
  EXPECT_THROW(static_cast<void>(count(load, 1, 2)), InputError);
  EXPECT_THROW(static_cast<void>(read_trace(folder / "l.safetensors")), InputError);
  write_trace(folder / "t.safetensors", random_trace(1, 2, 2, 1, 3, false));
  EXPECT_FALSE(is_load_trace(folder / "t.safetensors"));
  EXPECT_THROW(static_cast<void>(read_load_trace(folder / "t.safetensors")), InputError);
}

TEST(LoadTrace, DamagedFilesNeverCrash) {
  const ScratchFolder folder;
  write_load_trace(folder / "good", small_load());
  expect_no_damage_crashes(read_bytes(folder / "good"), "l.safetensors", true, 300,
                           [](const std::filesystem::path& path) { static_cast<void>(read_load_trace(path)); });
}

}  // namespace
}  // namespace coterie
