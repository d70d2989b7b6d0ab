// One MoE layer's experts, forward and backward, on several ranks, beside one rank, another implementation's gradients
// and differences of the loss.
#include "runtime/experts/expert_layer.hpp"

#include "comm/counting_communicator.hpp"
#include "placement/files/safetensors.hpp"
#include "tests/mpi_main.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <random>

namespace coterie {
namespace {

using Numbers = std::vector<float>;

/// A layer, its input and a loss, sum(y * dy), over all ranks together; the same on all of them.
struct Problem {
  ExpertLayerShape shape;
  int experts = 0;
  std::vector<std::int32_t> chosen;    ///< (rows, top_k)
  Numbers gates;                       ///< (rows, top_k)
  Numbers x, dy;                       ///< (rows, hidden)
  std::vector<Numbers> gate_up, down;  ///< (experts)

  [[nodiscard]] std::int64_t rows() const { return static_cast<std::int64_t>(x.size()) / shape.hidden; }
};

/// What comes of it, and gradients.
struct Outcome {
  Numbers y, x, gates;
  std::vector<Numbers> gate_up, down;  ///< (experts)
};

struct Way {
  std::string name;
  DispatchOptions options;
  DispatchCosts costs = {.row = 1000, .expert = 0, .row_inside = 1, .row_between = 2};  ///< weights travel for nothing
  bool replicas = false;
  std::int64_t cache_bytes = 0;
};

Way way(const std::string& name, DispatchPolicy policy, bool replicas = false) {
  Way w{name, {}};
  w.options.policy = policy;
  w.options.llep_min_rows = 1;
  w.options.llep_threshold = 1;
  w.replicas = replicas;
  return w;
}

const std::vector<Way> ways = {way("plain", DispatchPolicy::plain),
                               way("llep", DispatchPolicy::llep),
                               way("least-loaded", DispatchPolicy::least_loaded),
                               way("plain, replicas", DispatchPolicy::plain, true),
                               way("llep, replicas", DispatchPolicy::llep, true),
                               way("least-loaded, replicas", DispatchPolicy::least_loaded, true)};

/// Where each rank's rows begin: (ranks + 1).
using Shares = std::vector<std::int64_t>;

Shares even_shares(std::int64_t rows, int ranks) {
  Shares shares;
  for (int r = 0; r <= ranks; ++r) shares.push_back(rows * r / ranks);
  return shares;
}

/// A single rank's.
class NoOthers final : public Communicator {
 public:
  [[nodiscard]] int rank() const noexcept override { return 0; }
  [[nodiscard]] int ranks() const noexcept override { return 1; }
  [[nodiscard]] std::span<const int> node_of_rank() const noexcept override { return node_; }
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine, const Place&) override {
    return {{mine.begin(), mine.end()}};
  }
  void begin(Outbox outbox, const Place&) override { messages_ = std::move(outbox); }
  [[nodiscard]] bool progress() override { return true; }
  [[nodiscard]] Inbox& wait_for_rows() override { return messages_; }
  [[nodiscard]] Inbox finish() override { return std::move(messages_); }

 private:
  Inbox messages_;
  std::vector<int> node_{0};
};

/// Experts in consecutive blocks on ranks, two of which share a node; with replicas every other one also on the rank
/// behind its own.
DispatchLayer placement(int experts, int ranks, bool replicas) {
  std::vector<int> nodes, destinations(static_cast<std::size_t>(experts) * ranks);
  std::vector<std::uint8_t> held(destinations.size(), 0);
  for (int r = 0; r < ranks; ++r) nodes.push_back(r / 2);
  for (int e = 0; e < experts; ++e) {
    const int owner = e * ranks / experts, other = (owner + 1) % ranks;
    held[static_cast<std::size_t>(e) * ranks + owner] = 1;
    if (replicas && e % 2 == 0) held[static_cast<std::size_t>(e) * ranks + other] = 1;
    for (int r = 0; r < ranks; ++r) {
      destinations[static_cast<std::size_t>(r) * experts + e] = replicas && e % 2 == 0 && r % 2 == 0 ? other : owner;
    }
  }
  return {nodes, destinations, held};
}

std::span<std::byte> bytes_of(Numbers& numbers) {
  return std::as_writable_bytes(std::span(numbers));
}

Tensor tensor(Numbers& numbers, std::int64_t cols) {
  return {bytes_of(numbers).data(), DType::f32, static_cast<std::int64_t>(numbers.size()) / cols, cols, cols};
}

Numbers part(const Numbers& of, std::int64_t first, std::int64_t last) {
  return {of.begin() + first, of.begin() + last};
}

struct Layer {
  std::unique_ptr<Device> device = make_cpu_device({DType::f32, 1});
  ExpertLayer layer;

  Layer(const Problem& problem, const Way& way, Communicator& comm)
      : layer(problem.shape, placement(problem.experts, comm.ranks(), way.replicas),
              {.dispatch = way.options, .costs = way.costs, .cache_bytes = way.cache_bytes}, *device, comm) {
    for (const int e : layer.held()) layer.set_weights(e, problem.gate_up[e], problem.down[e]);
  }
};

struct Ran {
  Outcome mine;               ///< of this rank's rows; gradients of weights where it owns them, else none
  std::int64_t computed = 0;  ///< pairs
  std::size_t guests = 0;
};

Ran run(const Problem& problem, const Way& way, const Shares& shares, Communicator& comm, bool backward = true) {
  Layer l(problem, way, comm);
  const std::int64_t h = problem.shape.hidden, k = problem.shape.top_k;
  const std::int64_t first = shares[comm.rank()], last = shares[comm.rank() + 1];
  Numbers x = part(problem.x, first * h, last * h), dy = part(problem.dy, first * h, last * h);
  const std::vector<std::int32_t> experts(problem.chosen.begin() + first * k, problem.chosen.begin() + last * k);
  const Numbers gates = part(problem.gates, first * k, last * k);
  Ran r;
  Outcome& out = r.mine;
  out.y.resize(x.size(), NAN);
  ExpertPass pass = l.layer.forward(tensor(x, h), {experts, gates}, tensor(out.y, h));
  r.computed = pass.computed();
  r.guests = pass.guests.size();
  if (!backward) return r;

  out.x.resize(x.size(), NAN);
  out.gates.resize(gates.size(), NAN);
  out.gate_up.resize(problem.experts);
  out.down.resize(problem.experts);
  std::vector<ExpertGradients> weights;
  for (const int e : l.layer.owned()) {
    out.gate_up[e].resize(problem.gate_up[e].size(), 0);
    out.down[e].resize(problem.down[e].size(), 0);
    weights.push_back({tensor(out.gate_up[e], h), tensor(out.down[e], problem.shape.intermediate)});
  }
  l.layer.backward(std::move(pass), tensor(dy, h), {tensor(out.x, h), out.gates, weights});
  return r;
}

/// Every rank's numbers, one after the other.
Numbers gather(Communicator& comm, const Numbers& mine) {
  Numbers all;
  for (const auto& theirs : comm.all_gather(std::as_bytes(std::span(mine)), {"test"})) {
    all.resize(all.size() + theirs.size() / sizeof(float));
    if (!theirs.empty()) std::memcpy(&*(all.end() - theirs.size() / sizeof(float)), theirs.data(), theirs.size());
  }
  return all;
}

/// All ranks' together, on every rank.
Outcome gather(Communicator& comm, Outcome mine) {
  Outcome all{gather(comm, mine.y), gather(comm, mine.x), gather(comm, mine.gates), {}, {}};
  for (Numbers& numbers : mine.gate_up) all.gate_up.push_back(gather(comm, numbers));
  for (Numbers& numbers : mine.down) all.down.push_back(gather(comm, numbers));
  return all;
}

Outcome alone(const Problem& problem) {
  NoOthers comm;
  return run(problem, ways[0], even_shares(problem.rows(), 1), comm).mine;
}

void expect_same(const Numbers& actual, const Numbers& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(actual[i]), std::bit_cast<std::uint32_t>(expected[i]))
        << what << ": number " << i << " is " << actual[i] << ", not " << expected[i];
  }
}

/// Within some units in the last place of the largest number.
void expect_close(const Numbers& actual, const Numbers& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  float largest = 0;
  for (const float e : expected) largest = std::max(largest, std::abs(e));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_LE(std::abs(actual[i] - expected[i]), 32 * 0x1p-23F * largest)
        << what << ": number " << i << " is " << actual[i] << ", not " << expected[i];
  }
}

void expect_close(const Outcome& actual, const Outcome& expected) {
  expect_close(actual.y, expected.y, "y");
  expect_close(actual.x, expected.x, "the gradient of x");
  expect_close(actual.gates, expected.gates, "the gradient of gates");
  ASSERT_EQ(actual.down.size(), expected.down.size());
  for (std::size_t e = 0; e < expected.down.size(); ++e) {
    expect_close(actual.gate_up[e], expected.gate_up[e], "the gradient of gate and up of expert " + std::to_string(e));
    expect_close(actual.down[e], expected.down[e], "the gradient of down of expert " + std::to_string(e));
  }
}

/// Rows whose choices `choose` makes, for row and place.
template <class Choose>
Problem random_problem(const ExpertLayerShape& shape, int experts, std::int64_t rows, unsigned seed, Choose choose) {
  std::mt19937 random(seed);
  const auto normal = [&](std::int64_t count, float deviation) {
    std::normal_distribution<float> distribution(0, deviation);
    Numbers numbers(static_cast<std::size_t>(count));
    for (float& x : numbers) x = distribution(random);
    return numbers;
  };
  Problem p{shape, experts, {}, normal(rows * shape.top_k, 1), {}, {}, {}, {}};
  for (std::int64_t r = 0; r < rows; ++r) {
    for (int j = 0; j < shape.top_k; ++j) p.chosen.push_back(choose(r, j, random));
  }
  p.x = normal(rows * shape.hidden, 1);
  p.dy = normal(rows * shape.hidden, 1);
  for (int e = 0; e < experts; ++e) {
    p.gate_up.push_back(normal(2 * shape.intermediate * shape.hidden, 0.25F));
    p.down.push_back(normal(shape.hidden * shape.intermediate, 0.25F));
  }
  return p;
}

/// Nine of ten choices fall on the first quarter of the experts, a few on none.
Problem skewed_problem(int top_k, std::int64_t rows, unsigned seed) {
  const int experts = 12;
  return random_problem({32, 24, top_k}, experts, rows, seed, [=](std::int64_t, int, std::mt19937& random) {
    const auto draw = random() % 20;
    return static_cast<std::int32_t>(draw == 0   ? random() % experts
                                     : draw == 1 ? static_cast<unsigned>(-1)
                                                 : random() % (experts / 4));
  });
}

class ExpertLayerTest : public testing::Test {
 protected:
  std::unique_ptr<Communicator> mpi = make_mpi_communicator(test_session(), {.timeout = std::chrono::seconds(60)});
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
    Problem p{{down[1], down[2], static_cast<int>(experts[1])},
              static_cast<int>(down[0]),
              {},
              floats(file, name + ".gates"),
              floats(file, name + ".x"),
              floats(file, name + ".dy"),
              by_expert(file, name + ".w_gate", name + ".w_up"),
              by_expert(file, name + ".w_down")};
    p.chosen.resize(p.gates.size());
    std::memcpy(p.chosen.data(), file.at(name + ".experts").bytes.data(), p.gates.size() * sizeof(std::int32_t));
    const Outcome expected{floats(file, name + ".y"), floats(file, name + ".dx"), floats(file, name + ".dgates"),
                           by_expert(file, name + ".dw_gate", name + ".dw_up"), by_expert(file, name + ".dw_down")};
    for (const Way& w : ways) {
      SCOPED_TRACE(name + ", " + w.name);
      expect_close(gather(comm, run(p, w, even_shares(p.rows(), comm.ranks()), comm).mine), expected);
    }
  }
}

/// Where sums have the same order the bits are the same: always of a choice by itself (gates, and with one choice a row
/// everything of it), and of weights where one rank computes all of an expert's rows.
TEST_F(ExpertLayerTest, EqualsASingleRankBitForBitWhereSumsHaveTheSameOrder) {
  for (const int top_k : {1, 3}) {
    const Problem p = skewed_problem(top_k, 90, 7);
    const Outcome expected = alone(p);
    for (const Way& w : ways) {
      SCOPED_TRACE(w.name + ", top " + std::to_string(top_k));
      const Outcome all = gather(comm, run(p, w, even_shares(p.rows(), comm.ranks()), comm).mine);
      expect_close(all, expected);
      expect_same(all.gates, expected.gates, "the gradient of gates");
      if (top_k == 1) {
        expect_same(all.y, expected.y, "y");
        expect_same(all.x, expected.x, "the gradient of x");
      }
      for (int e = 0; e < p.experts && w.name == "plain"; ++e) {
        expect_same(all.gate_up[e], expected.gate_up[e], "the gradient of gate and up");
        expect_same(all.down[e], expected.down[e], "the gradient of down");
      }
      const Outcome again = gather(comm, run(p, w, even_shares(p.rows(), comm.ranks()), comm).mine);
      expect_same(again.y, all.y, "y, again");
      expect_same(again.x, all.x, "the gradient of x, again");
      for (int e = 0; e < p.experts; ++e) expect_same(again.gate_up[e], all.gate_up[e], "weights, again");
    }
  }
}

TEST_F(ExpertLayerTest, SpillsOneExpertToEveryRank) {
  const Problem p = random_problem({16, 16, 1}, 8, 160, 3, [](auto...) { return 5; });
  const Outcome expected = alone(p);
  for (const Way& w : ways) {
    SCOPED_TRACE(w.name);
    const Ran mine = run(p, w, even_shares(p.rows(), comm.ranks()), comm);
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
  const Problem p = skewed_problem(2, 40, 11);
  const Outcome expected = alone(p);
  for (int only = 0; only < comm.ranks(); only += std::max(1, comm.ranks() - 1)) {
    Shares shares(static_cast<std::size_t>(comm.ranks()) + 1, 0);
    std::fill(shares.begin() + only + 1, shares.end(), p.rows());
    for (const Way& w : ways) {
      SCOPED_TRACE(w.name + ", all rows on rank " + std::to_string(only));
      expect_close(gather(comm, run(p, w, shares, comm).mine), expected);
    }
  }
}

TEST_F(ExpertLayerTest, TakesRowsWithoutExpertsAndNoRowsAtAll) {
  for (const std::int64_t rows : {0, 21}) {
    const Problem p = random_problem({16, 16, 2}, 8, rows, 5, [](auto...) { return -1; });
    for (const Way& w : ways) {
      SCOPED_TRACE(w.name + ", " + std::to_string(rows) + " rows");
      const Ran mine = run(p, w, even_shares(rows, comm.ranks()), comm);
      EXPECT_EQ(mine.computed, 0);
      const Outcome all = gather(comm, mine.mine);
      const Numbers zeros(static_cast<std::size_t>(rows) * 16, 0);
      expect_same(all.y, zeros, "y");
      expect_same(all.x, zeros, "the gradient of x");
      expect_same(all.gates, Numbers(static_cast<std::size_t>(rows) * 2, 0), "the gradient of gates");
      for (const Numbers& numbers : all.down) expect_same(numbers, Numbers(16 * 16, 0), "the gradient of down");
    }
  }
}

double loss(const Problem& p, const Way& w, Communicator& comm) {
  Ran mine = run(p, w, even_shares(p.rows(), comm.ranks()), comm, false);
  const Numbers y = gather(comm, mine.mine.y);
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(y[i]) * p.dy[i];
  return sum;
}

/// The loss changes along a direction as the gradients say.
TEST_F(ExpertLayerTest, AgreesWithDifferencesOfTheLoss) {
  Problem p = skewed_problem(2, 48, 13);
  p.shape.gating = {1.702F, 1, 2};  // what gpt-oss does
  for (const Way& w : {ways[0], ways[2], ways[5]}) {
    const Outcome g = gather(comm, run(p, w, even_shares(p.rows(), comm.ranks()), comm).mine);
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
  const Problem p = skewed_problem(2, 30, 19);
  for (const Way& w : ways) {
    const std::int64_t exchanges = comm.calls("exchange"), gathers = comm.calls("all_gather");
    (void)run(p, w, even_shares(p.rows(), comm.ranks()), comm);
    EXPECT_EQ(comm.calls("exchange") - exchanges, 4) << w.name;
    const bool plans = w.options.policy != DispatchPolicy::plain && comm.ranks() > 1;
    EXPECT_EQ(comm.calls("all_gather") - gathers, plans ? 1 : 0) << w.name;
  }
}

/// One pass of this rank's rows through a layer that has seen others before.
Numbers forward(Layer& l, const Problem& p, Communicator& comm, std::optional<std::int64_t> rows_of_all = {}) {
  const Shares shares = even_shares(p.rows(), comm.ranks());
  const std::int64_t h = p.shape.hidden, k = p.shape.top_k, first = shares[comm.rank()], last = shares[comm.rank() + 1];
  Numbers x = part(p.x, first * h, last * h), y(x.size(), NAN);
  const Numbers gates = part(p.gates, first * k, last * k);
  const std::vector<std::int32_t> experts(p.chosen.begin() + first * k, p.chosen.begin() + last * k);
  (void)l.layer.forward(tensor(x, h), {experts, gates, rows_of_all}, tensor(y, h));
  return y;
}

TEST_F(ExpertLayerTest, KeepsExpertsThatCameUntilTheirWeightsChange) {
  if (comm.ranks() == 1) return;
  Problem p = random_problem({16, 16, 1}, 8, 160, 29, [](auto...) { return 5; });
  const int owner = 5 * comm.ranks() / 8;
  for (const std::int64_t cache : {0, 3 * 16 * 16 * 4, 1 << 20}) {  // nothing, one expert, all
    Way w = way("cached", DispatchPolicy::least_loaded);
    w.cache_bytes = cache;
    Layer l(p, w, comm);
    const auto expect_right = [&] { expect_same(gather(comm, forward(l, p, comm)), alone(p).y, "y"); };
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

TEST_F(ExpertLayerTest, GathersNoCountsWhereSoFewRowsCannotGain) {
  if (comm.ranks() == 1) return;
  const Problem p = skewed_problem(2, 30, 31);
  Way w = way("far away", DispatchPolicy::least_loaded);
  w.costs.weights_inside = w.costs.weights_between = 1'000'000;  // a thousand rows'
  Layer l(p, w, comm);
  const std::int64_t gathers = comm.calls("all_gather");
  const Numbers y = forward(l, p, comm, p.rows());
  EXPECT_EQ(comm.calls("all_gather"), gathers);
  EXPECT_EQ(l.layer.counts().skipped, 1);
  (void)forward(l, p, comm);  // it doesn't know how few they are
  EXPECT_EQ(comm.calls("all_gather"), gathers + 1);
  EXPECT_EQ(l.layer.counts().not_worth_it, 1);
  expect_close(gather(comm, y), alone(p).y, "y");
}

TEST_F(ExpertLayerTest, RefusesWhatDoesNotFit) {
  NoOthers one;
  const Problem p = skewed_problem(2, 3, 23);
  Layer l(p, ways[0], one);
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
  EXPECT_THROW(ExpertLayer(p.shape, placement(12, 2, false), {}, *device, one), std::invalid_argument);
  ExpertLayer unset(p.shape, placement(12, 1, false), {}, *device, one);
  EXPECT_THROW((void)unset.forward(tensor(x, 32), {p.chosen, p.gates}, tensor(y, 32)), std::logic_error);
}

}  // namespace
}  // namespace coterie
