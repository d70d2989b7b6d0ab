#include "tests/runtime/experts/expert_layer_problem.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace coterie {

LayerProblem random_problem(const ExpertLayerShape& shape, int experts, std::int64_t rows, unsigned seed,
                            const std::function<std::int32_t(std::int64_t, int, std::mt19937&)>& choose) {
  std::mt19937 random(seed);
  const auto normal = [&](std::int64_t count, float deviation) {
    std::normal_distribution<float> distribution(0, deviation);
    Numbers numbers(static_cast<std::size_t>(count));
    for (float& x : numbers) x = distribution(random);
    return numbers;
  };
  LayerProblem p{shape, experts, {}, normal(rows * shape.top_k, 1), {}, {}, {}, {}};
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

LayerProblem skewed_problem(int top_k, std::int64_t rows, unsigned seed) {
  const int experts = 12;
  return random_problem({32, 24, top_k}, experts, rows, seed, [=](std::int64_t, int, std::mt19937& random) {
    const auto draw = random() % 20;
    return static_cast<std::int32_t>(draw == 0   ? random() % experts
                                     : draw == 1 ? static_cast<unsigned>(-1)
                                                 : random() % (experts / 4));
  });
}

DispatchWay way(const std::string& name, DispatchPolicy policy, bool replicas) {
  DispatchWay w{name, {}};
  w.options.policy = policy;
  w.options.llep_min_rows = 1;
  w.options.llep_threshold = 1;
  w.replicas = replicas;
  return w;
}

const std::vector<DispatchWay> ways = {way("plain", DispatchPolicy::plain),
                                       way("llep", DispatchPolicy::llep),
                                       way("least-loaded", DispatchPolicy::least_loaded),
                                       way("plain, replicas", DispatchPolicy::plain, true),
                                       way("llep, replicas", DispatchPolicy::llep, true),
                                       way("least-loaded, replicas", DispatchPolicy::least_loaded, true)};

Shares even_shares(std::int64_t rows, int ranks) {
  Shares shares;
  for (int r = 0; r <= ranks; ++r) shares.push_back(rows * r / ranks);
  return shares;
}

DispatchLayer block_placement(int experts, int ranks, bool replicas) {
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

Tensor tensor(Numbers& numbers, std::int64_t cols) {
  return {reinterpret_cast<std::byte*>(numbers.data()), DType::f32, static_cast<std::int64_t>(numbers.size()) / cols,
          cols, cols};
}

Numbers part(const Numbers& of, std::int64_t first, std::int64_t last) {
  return {of.begin() + first, of.begin() + last};
}

ReadyLayer::ReadyLayer(const LayerProblem& problem, const DispatchWay& way, Communicator& comm)
    : layer(problem.shape, block_placement(problem.experts, comm.ranks(), way.replicas),
            {.dispatch = way.options, .costs = way.costs, .cache_bytes = way.cache_bytes}, *device, comm) {
  for (const int e : layer.held()) layer.set_weights(e, problem.gate_up[e], problem.down[e]);
}

LayerRun forward(const LayerProblem& problem, ReadyLayer& ready, const Shares& shares, Communicator& comm,
                 std::optional<std::int64_t> rows_of_all) {
  const std::int64_t h = problem.shape.hidden, k = problem.shape.top_k;
  const std::int64_t first = shares[comm.rank()], last = shares[comm.rank() + 1];
  Numbers x = part(problem.x, first * h, last * h);
  const std::vector<std::int32_t> experts(problem.chosen.begin() + first * k, problem.chosen.begin() + last * k);
  const Numbers gates = part(problem.gates, first * k, last * k);
  LayerRun run;
  run.mine.y.resize(x.size(), NAN);
  run.pass = ready.layer.forward(tensor(x, h), {experts, gates, rows_of_all}, tensor(run.mine.y, h));
  run.computed = run.pass.computed();
  run.guests = run.pass.guests.size();
  return run;
}

void backward(const LayerProblem& problem, ReadyLayer& ready, const Shares& shares, Communicator& comm, LayerRun& run) {
  const std::int64_t h = problem.shape.hidden;
  Numbers dy = part(problem.dy, shares[comm.rank()] * h, shares[comm.rank() + 1] * h);
  LayerOutcome& out = run.mine;
  out.x.resize(dy.size(), NAN);
  out.gates.resize(dy.size() / h * problem.shape.top_k, NAN);
  out.gate_up.resize(problem.experts);
  out.down.resize(problem.experts);
  std::vector<ExpertGradients> weights;
  for (const int e : ready.layer.owned()) {
    out.gate_up[e].resize(problem.gate_up[e].size(), 0);
    out.down[e].resize(problem.down[e].size(), 0);
    weights.push_back({tensor(out.gate_up[e], h), tensor(out.down[e], problem.shape.intermediate)});
  }
  ready.layer.backward(std::move(run.pass), tensor(dy, h), {tensor(out.x, h), out.gates, weights});
}

LayerRun run(const LayerProblem& problem, const DispatchWay& way, const Shares& shares, Communicator& comm) {
  ReadyLayer ready(problem, way, comm);
  LayerRun run = forward(problem, ready, shares, comm);
  backward(problem, ready, shares, comm, run);
  return run;
}

LayerOutcome alone(const LayerProblem& problem) {
  NoOthers comm;
  return run(problem, ways[0], even_shares(problem.rows(), 1), comm).mine;
}

Numbers gather(Communicator& comm, const Numbers& mine) {
  Numbers all;
  for (const auto& theirs : comm.all_gather(std::as_bytes(std::span(mine)), {"test"})) {
    all.resize(all.size() + theirs.size() / sizeof(float));
    if (!theirs.empty()) std::memcpy(&*(all.end() - theirs.size() / sizeof(float)), theirs.data(), theirs.size());
  }
  return all;
}

LayerOutcome gather(Communicator& comm, const LayerOutcome& mine) {
  LayerOutcome all{gather(comm, mine.y), gather(comm, mine.x), gather(comm, mine.gates), {}, {}};
  for (const Numbers& numbers : mine.gate_up) all.gate_up.push_back(gather(comm, numbers));
  for (const Numbers& numbers : mine.down) all.down.push_back(gather(comm, numbers));
  return all;
}

void expect_same_bits(const Numbers& actual, const Numbers& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::bit_cast<std::uint32_t>(actual[i]), std::bit_cast<std::uint32_t>(expected[i]))
        << what << ": number " << i << " is " << actual[i] << ", not " << expected[i];
  }
}

void expect_close(const Numbers& actual, const Numbers& expected, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  float largest = 0;
  for (const float e : expected) largest = std::max(largest, std::abs(e));
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_LE(std::abs(actual[i] - expected[i]), 32 * 0x1p-23F * largest)
        << what << ": number " << i << " is " << actual[i] << ", not " << expected[i];
  }
}

void expect_close(const LayerOutcome& actual, const LayerOutcome& expected) {
  expect_close(actual.y, expected.y, "y");
  expect_close(actual.x, expected.x, "the gradient of x");
  expect_close(actual.gates, expected.gates, "the gradient of gates");
  ASSERT_EQ(actual.down.size(), expected.down.size());
  for (std::size_t e = 0; e < expected.down.size(); ++e) {
    expect_close(actual.gate_up[e], expected.gate_up[e], "the gradient of gate and up of expert " + std::to_string(e));
    expect_close(actual.down[e], expected.down[e], "the gradient of down of expert " + std::to_string(e));
  }
}

}  // namespace coterie
