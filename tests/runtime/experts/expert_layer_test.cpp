// One MoE layer's experts, forward and backward, on several ranks, beside one rank, another implementation's gradients
// and differences of the loss.
#include "comm/counting_communicator.hpp"
#include "placement/files/safetensors.hpp"
#include "tests/mpi_main.hpp"
#include "tests/runtime/experts/expert_layer_problem.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

namespace coterie {
namespace {

class ExpertLayerTest : public testing::Test {
 protected:
  // Several nodes: between them weights come after the rows.
  std::unique_ptr<Communicator> mpi = make_mpi_communicator(
      test_session(), {.timeout = std::chrono::seconds(60), .ranks_per_node = test_session().ranks() > 2 ? 2 : 1});
  CountingCommunicator comm{*mpi};
};

Numbers floats(const SafetensorsFile& file, const std::string& name) {
  const auto bytes = file.at(name).bytes;
  Numbers numbers(bytes.size() / sizeof(float));
  std::memcpy(numbers.data(), bytes.data(), bytes.size());
  return numbers;
}

/// (experts, a, b) and maybe (experts, c, b): of each expert, the rows of the first, then of the second.
std::vector<Numbers> by_expert(const SafetensorsFile& file, const std::string& name, const std::string& and_then = {}) {
  const std::int64_t experts = file.at(name).shape[0];
  const Numbers one = floats(file, name), other = and_then.empty() ? Numbers() : floats(file, and_then);
  std::vector<Numbers> out;
  for (std::int64_t e = 0; e < experts; ++e) {
    const auto n = static_cast<std::int64_t>(one.size()) / experts,
               m = static_cast<std::int64_t>(other.size()) / experts;
    out.push_back(part(one, e * n, (e + 1) * n));
    const Numbers rest = part(other, e * m, (e + 1) * m);
    out.back().insert(out.back().end(), rest.begin(), rest.end());
  }
  return out;
}

TEST_F(ExpertLayerTest, GivesTheGradientsOfAnotherImplementation) {
  const SafetensorsFile file(std::string(COTERIE_FIXTURES) + "/gradients/moe_layer.safetensors");
  for (const std::string name : {"small", "top1", "skewed", "empty"}) {
    const Shape &experts = file.at(name + ".experts").shape, &down = file.at(name + ".w_down").shape;
    LayerProblem p{{down[1], down[2], static_cast<int>(experts[1])},
                   static_cast<int>(down[0]),
                   {},
                   floats(file, name + ".gates"),
                   floats(file, name + ".x"),
                   floats(file, name + ".dy"),
                   by_expert(file, name + ".w_gate", name + ".w_up"),
                   by_expert(file, name + ".w_down")};
    p.chosen.resize(p.gates.size());
    std::memcpy(p.chosen.data(), file.at(name + ".experts").bytes.data(), p.gates.size() * sizeof(std::int32_t));
    const LayerOutcome expected{floats(file, name + ".y"), floats(file, name + ".dx"), floats(file, name + ".dgates"),
                                by_expert(file, name + ".dw_gate", name + ".dw_up"),
                                by_expert(file, name + ".dw_down")};
    for (const DispatchWay& w : ways) {
      SCOPED_TRACE(name + ", " + w.name);
      expect_close(gather(comm, run(p, w, even_shares(p.rows(), comm.ranks()), comm).mine), expected);
    }
  }
}

/// Where sums have the same order the bits are the same: always of a choice by itself (gates, and with one choice a row
/// everything of it), and of weights where one rank computes all of an expert's rows.
TEST_F(ExpertLayerTest, EqualsASingleRankBitForBitWhereSumsHaveTheSameOrder) {
  for (const int top_k : {1, 3}) {
    const LayerProblem p = skewed_problem(top_k, 90, 7);
    const LayerOutcome expected = alone(p);
    for (const DispatchWay& w : ways) {
      SCOPED_TRACE(w.name + ", top " + std::to_string(top_k));
      const LayerOutcome all = gather(comm, run(p, w, even_shares(p.rows(), comm.ranks()), comm).mine);
      expect_close(all, expected);
      expect_same_bits(all.gates, expected.gates, "the gradient of gates");
      if (top_k == 1) {
        expect_same_bits(all.y, expected.y, "y");
        expect_same_bits(all.x, expected.x, "the gradient of x");
      }
      for (int e = 0; e < p.experts && w.name == "plain"; ++e) {
        expect_same_bits(all.gate_up[e], expected.gate_up[e], "the gradient of gate and up");
        expect_same_bits(all.down[e], expected.down[e], "the gradient of down");
      }
      const LayerOutcome again = gather(comm, run(p, w, even_shares(p.rows(), comm.ranks()), comm).mine);
      expect_same_bits(again.y, all.y, "y, again");
      expect_same_bits(again.x, all.x, "the gradient of x, again");
      for (int e = 0; e < p.experts; ++e) expect_same_bits(again.gate_up[e], all.gate_up[e], "weights, again");
    }
  }
}

TEST_F(ExpertLayerTest, SpillsOneExpertToEveryRank) {
  const LayerProblem p = random_problem({16, 16, 1}, 8, 160, 3, [](auto...) { return 5; });
  const LayerOutcome expected = alone(p);
  for (const DispatchWay& w : ways) {
    SCOPED_TRACE(w.name);
    const LayerRun mine = run(p, w, even_shares(p.rows(), comm.ranks()), comm);
    const bool owner = 5 * comm.ranks() / 8 == comm.rank();
    if (w.name == "plain") {
      EXPECT_EQ(mine.computed, owner ? p.rows() : 0);
    } else if (w.options.policy != DispatchPolicy::plain) {
      EXPECT_NEAR(static_cast<double>(mine.computed), static_cast<double>(p.rows()) / comm.ranks(), 1);
      EXPECT_EQ(mine.guests, owner ? 0U : 1U);  // this expert has no replicas
    }
    expect_close(gather(comm, mine.mine), expected);
  }
}

TEST_F(ExpertLayerTest, TakesRanksWithoutRows) {
  const LayerProblem p = skewed_problem(2, 40, 11);
  const LayerOutcome expected = alone(p);
  for (int only = 0; only < comm.ranks(); only += std::max(1, comm.ranks() - 1)) {
    Shares shares(static_cast<std::size_t>(comm.ranks()) + 1, 0);
    std::fill(shares.begin() + only + 1, shares.end(), p.rows());
    for (const DispatchWay& w : ways) {
      SCOPED_TRACE(w.name + ", all rows on rank " + std::to_string(only));
      expect_close(gather(comm, run(p, w, shares, comm).mine), expected);
    }
  }
}

TEST_F(ExpertLayerTest, TakesRowsWithoutExpertsAndNoRowsAtAll) {
  for (const std::int64_t rows : {0, 21}) {
    const LayerProblem p = random_problem({16, 16, 2}, 8, rows, 5, [](auto...) { return -1; });
    for (const DispatchWay& w : ways) {
      SCOPED_TRACE(w.name + ", " + std::to_string(rows) + " rows");
      const LayerRun mine = run(p, w, even_shares(rows, comm.ranks()), comm);
      EXPECT_EQ(mine.computed, 0);
      const LayerOutcome all = gather(comm, mine.mine);
      const Numbers zeros(static_cast<std::size_t>(rows) * 16, 0);
      expect_same_bits(all.y, zeros, "y");
      expect_same_bits(all.x, zeros, "the gradient of x");
      expect_same_bits(all.gates, Numbers(static_cast<std::size_t>(rows) * 2, 0), "the gradient of gates");
      for (const Numbers& numbers : all.down) expect_same_bits(numbers, Numbers(16 * 16, 0), "the gradient of down");
    }
  }
}

double loss(const LayerProblem& p, const DispatchWay& w, Communicator& comm) {
  ReadyLayer ready(p, w, comm);
  const Numbers y = gather(comm, forward(p, ready, even_shares(p.rows(), comm.ranks()), comm).mine.y);
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(y[i]) * p.dy[i];
  return sum;
}

/// The loss changes along a direction as the gradients say.
TEST_F(ExpertLayerTest, AgreesWithDifferencesOfTheLoss) {
  LayerProblem p = skewed_problem(2, 48, 13);
  p.shape.gating = {1.702F, 1, 2};  // what gpt-oss does
  for (const DispatchWay& w : {ways[0], ways[2], ways[5]}) {
    const LayerOutcome g = gather(comm, run(p, w, even_shares(p.rows(), comm.ranks()), comm).mine);
    std::mt19937 random(17);
    const auto check = [&](const std::string& what, const Numbers& gradient, Numbers& numbers) {
      if (gradient.empty()) return;
      constexpr double step = 2e-3;
      const Numbers before = numbers;
      double size = 0;
      for (const float x : gradient) size += static_cast<double>(x) * x;
      if (size == 0) return;
      // Along the gradient, and a random direction of its size.
      std::normal_distribution<float> normal(0,
                                             static_cast<float>(std::sqrt(size / static_cast<double>(before.size()))));
      for (const bool along : {true, false}) {
        double expected = 0;
        std::vector<double> losses;
        Numbers direction = gradient;
        for (std::size_t i = 0; i < before.size(); ++i) {
          if (!along) direction[i] = normal(random);
          expected += static_cast<double>(direction[i]) * gradient[i] / std::sqrt(size);
        }
        for (const double sign : {1.0, -1.0}) {
          for (std::size_t i = 0; i < before.size(); ++i) {
            numbers[i] = static_cast<float>(before[i] + sign * step * direction[i] / std::sqrt(size));
          }
          losses.push_back(loss(p, w, comm));
        }
        numbers = before;
        EXPECT_NEAR((losses[0] - losses[1]) / (2 * step), expected, 5e-3 * std::sqrt(size)) << w.name << ": " << what;
      }
    };
    check("x", g.x, p.x);
    check("gates", g.gates, p.gates);
    for (const int e : {0, 1, 7}) {
      check("gate and up of " + std::to_string(e), g.gate_up[e], p.gate_up[e]);
      check("down of " + std::to_string(e), g.down[e], p.down[e]);
    }
  }
}

TEST_F(ExpertLayerTest, TalksTwiceForwardAndTwiceBackward) {
  const LayerProblem p = skewed_problem(2, 30, 19);
  for (const DispatchWay& w : ways) {
    const std::int64_t exchanges = comm.calls("exchange"), gathers = comm.calls("all_gather");
    (void)run(p, w, even_shares(p.rows(), comm.ranks()), comm);
    EXPECT_EQ(comm.calls("exchange") - exchanges, 4) << w.name;
    const bool plans = w.options.policy != DispatchPolicy::plain && comm.ranks() > 1;
    EXPECT_EQ(comm.calls("all_gather") - gathers, plans ? 1 : 0) << w.name;
  }
}

TEST_F(ExpertLayerTest, KeepsExpertsThatCameUntilTheirWeightsChange) {
  if (comm.ranks() == 1) return;
  LayerProblem p = random_problem({16, 16, 1}, 8, 160, 29, [](auto...) { return 5; });
  const Shares shares = even_shares(p.rows(), comm.ranks());
  const int owner = 5 * comm.ranks() / 8;
  for (const std::int64_t cache : {0, 3 * 16 * 16 * 4, 1 << 20}) {  // nothing, one expert, all
    DispatchWay w = way("cached", DispatchPolicy::least_loaded);
    w.cache_bytes = cache;
    ReadyLayer l(p, w, comm);
    const auto expect_right = [&] {
      expect_same_bits(gather(comm, forward(p, l, shares, comm).mine.y), alone(p).y, "y");
    };
    expect_right();
    const SpillCounts first = l.layer.counts();
    EXPECT_EQ(first.spilled, 1);
    EXPECT_EQ(first.experts_taken, comm.rank() == owner ? 0 : 1);
    EXPECT_EQ(first.experts_sent, comm.rank() == owner ? comm.ranks() - 1 : 0);
    EXPECT_EQ(first.weight_bytes_sent > 0, comm.rank() == owner);
    EXPECT_EQ(first.rows_before, comm.rank() == owner ? p.rows() : 0);
    EXPECT_EQ(first.heaviest_before, p.rows());
    EXPECT_LT(first.heaviest_after, p.rows());
    EXPECT_LT(first.predicted_after, first.predicted_before);
    EXPECT_GT(first.measured, 0);

    expect_right();
    EXPECT_EQ(l.layer.counts().cache_hits, comm.rank() == owner || cache == 0 ? 0 : 1);
    EXPECT_EQ(l.layer.counts().experts_taken, cache == 0 ? 2 * first.experts_taken : first.experts_taken);

    for (float& number : p.gate_up[5]) number = -number;
    if (comm.rank() == owner) l.layer.set_weights(5, p.gate_up[5], p.down[5]);
    expect_right();
    EXPECT_EQ(l.layer.counts().cache_hits, comm.rank() == owner || cache == 0 ? 0 : 1);
    EXPECT_EQ(l.layer.counts().spilled, 3);
  }
}

/// Several passes of other rows between two changes of weights, as when gradients of micro-batches are summed.
TEST_F(ExpertLayerTest, TrainsAlikeWhereExpertsAreKept) {
  for (const DispatchWay& w : ways) {
    if (w.options.policy == DispatchPolicy::plain) continue;
    for (const std::int64_t cache : {0, 3 * 32 * 24 * 4, 1 << 20}) {  // nothing, one expert, all
      SCOPED_TRACE(w.name + ", cache of " + std::to_string(cache));
      DispatchWay with_cache = w;
      with_cache.cache_bytes = cache;
      LayerProblem p = skewed_problem(2, 90, 37);
      const Shares shares = even_shares(p.rows(), comm.ranks());
      ReadyLayer kept(p, with_cache, comm), plain(p, ways[w.replicas ? 3 : 0], comm);
      for (unsigned step = 0; step < 3; ++step) {
        std::vector<LayerProblem> batches;
        std::vector<LayerRun> runs;
        for (unsigned batch = 0; batch < 3; ++batch) {
          batches.push_back(skewed_problem(2, 90, 100 + 3 * step + batch));
          batches.back().gate_up = p.gate_up;
          batches.back().down = p.down;
          runs.push_back(forward(batches.back(), kept, shares, comm));
        }
        for (std::size_t batch = batches.size(); batch-- > 0;) {
          backward(batches[batch], kept, shares, comm, runs[batch]);
          const LayerOutcome all = gather(comm, runs[batch].mine);
          expect_close(all, alone(batches[batch]));
          LayerRun other = forward(batches[batch], plain, shares, comm);
          backward(batches[batch], plain, shares, comm, other);
          expect_same_bits(all.gates, gather(comm, other.mine.gates), "the gradient of gates");
          for (int e = 0; e < p.experts; ++e) {
            for (std::size_t i = 0; i < p.gate_up[e].size(); ++i) p.gate_up[e][i] -= 0.01F * all.gate_up[e][i];
            for (std::size_t i = 0; i < p.down[e].size(); ++i) p.down[e][i] -= 0.01F * all.down[e][i];
          }
        }
        for (ReadyLayer* l : {&kept, &plain}) {
          for (const int e : l->layer.held()) l->layer.set_weights(e, p.gate_up[e], p.down[e]);
        }
      }
      float hits = 0;
      for (const float of_rank : gather(comm, Numbers{static_cast<float>(kept.layer.counts().cache_hits)}))
        hits += of_rank;
      if (cache == 0 || comm.ranks() == 1) {
        EXPECT_EQ(hits, 0);
      }
      if (cache == 1 << 20 && comm.ranks() > 1) {
        EXPECT_GT(hits, 0);
      }
    }
  }
}

TEST_F(ExpertLayerTest, GathersNoCountsWhereSoFewRowsCannotGain) {
  if (comm.ranks() == 1) return;
  const LayerProblem p = skewed_problem(2, 30, 31);
  DispatchWay w = way("far away", DispatchPolicy::least_loaded);
  w.costs.weights_inside = w.costs.weights_between = 1'000'000;  // a thousand rows'
  ReadyLayer l(p, w, comm);
  const Shares shares = even_shares(p.rows(), comm.ranks());
  const std::int64_t gathers = comm.calls("all_gather");
  const Numbers y = forward(p, l, shares, comm, p.rows()).mine.y;
  EXPECT_EQ(comm.calls("all_gather"), gathers);
  EXPECT_EQ(l.layer.counts().skipped, 1);
  (void)forward(p, l, shares, comm);  // it doesn't know how few they are
  EXPECT_EQ(comm.calls("all_gather"), gathers + 1);
  EXPECT_EQ(l.layer.counts().not_worth_it, 1);
  expect_close(gather(comm, y), alone(p).y, "y");
}

TEST_F(ExpertLayerTest, RefusesWhatDoesNotFit) {
  NoOthers one;
  const LayerProblem p = skewed_problem(2, 3, 23);
  ReadyLayer l(p, ways[0], one);
  Numbers x = p.x, y(x.size());
  const Numbers gates(5);
  EXPECT_THROW((void)l.layer.forward(tensor(x, 32), {p.chosen, gates}, tensor(y, 32)), std::invalid_argument);
  EXPECT_THROW(l.layer.set_weights(12, p.gate_up[0], p.down[0]), std::invalid_argument);
  EXPECT_THROW(l.layer.set_weights(0, p.down[0], p.down[0]), std::invalid_argument);
  std::vector<std::int32_t> chosen = p.chosen;
  chosen[4] = 12;
  EXPECT_THROW((void)l.layer.forward(tensor(x, 32), {chosen, p.gates}, tensor(y, 32)), std::invalid_argument);
  EXPECT_THROW(l.layer.backward(l.layer.forward(tensor(x, 32), {p.chosen, p.gates}, tensor(y, 32)), tensor(y, 32), {}),
               std::invalid_argument);
  const auto device = make_cpu_device({DType::f32, 1});
  EXPECT_THROW(ExpertLayer(p.shape, block_placement(12, 2, false), {}, *device, one), std::invalid_argument);
  ExpertLayer unset(p.shape, block_placement(12, 1, false), {}, *device, one);
  EXPECT_THROW((void)unset.forward(tensor(x, 32), {p.chosen, p.gates}, tensor(y, 32)), std::logic_error);
}

}  // namespace
}  // namespace coterie
