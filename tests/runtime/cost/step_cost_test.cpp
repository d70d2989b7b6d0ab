// Predicted costs of the forms of context coherence, and the choice among them.
#include "runtime/cost/step_cost.hpp"

#include "runtime/cost/form_choice.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace coterie {
namespace {

/// Like Mixtral, a tenth as wide.
ModelCosts model_of(int experts, int top_k) {
  return {.layers = 32,
          .experts = experts,
          .top_k = top_k,
          .row_bytes = 4 * 512,
          .kv_bytes = 4 * 256,
          .dense_flop = 2 * 1.0e6,
          .context_flop = 4 * 512,
          .expert_flop = 2 * 2.0e6,
          .head_flop = 2 * 1.0e6};
}

Cluster cluster_of(std::vector<int> ranks_per_node, Link link) {
  Machine machine;
  machine.inside_node = {1e-5, 1e10};
  if (ranks_per_node.size() > 1) {
    machine.between_nodes = link;
  } else {
    machine.inside_node = link;
  }
  machine.gemm = {{1, 1e10}, {64, 1e11}, {512, 2e11}};
  return {{std::move(ranks_per_node)}, machine};
}

double seconds(const ModelCosts& model, const Cluster& cluster, const StepForm& form, double rows) {
  return predict(model, cluster, form, {.rows = rows, .context = 128}).seconds;
}

constexpr StepForm kPlain{}, kWorld{Coherence::world, false, 1}, kReplicated{Coherence::world, true, 1};

TEST(StepCost, ExchangesOfALayer) {
  const Cluster cluster = cluster_of({1, 1, 1, 1}, {1e-4, 1e9});
  const auto exchanges = [&](int top_k, const StepForm& form) {
    return predict(model_of(16, top_k), cluster, form, {.rows = 64}).exchanges;
  };
  EXPECT_EQ(exchanges(1, kPlain), 2);
  EXPECT_EQ(exchanges(2, kPlain), 2);
  EXPECT_EQ(exchanges(1, kWorld), 1);
  EXPECT_NEAR(exchanges(2, kWorld), 2, 1e-6) << "some row's partial sums have to move";
  EXPECT_EQ(exchanges(2, kReplicated), 1);
  EXPECT_NEAR(exchanges(2, {Coherence::world, false, 2}), 2, 0.1);
}

TEST(StepCost, BytesCountedByHand) {
  // Top 1 of 4 experts, one on each of 4 ranks: a row leaves with chance 3/4, and plain it comes back.
  ModelCosts model = model_of(4, 1);
  const Cluster cluster = cluster_of({4}, {0, 1e9});
  const double row = model.row_bytes + 8 + 12, sum = model.row_bytes + 12, kv = model.kv_bytes + 4;
  EXPECT_NEAR(predict(model, cluster, kPlain, {.rows = 40}).bytes, 10 * 0.75 * (row + sum), 1e-6);
  EXPECT_NEAR(predict(model, cluster, kWorld, {.rows = 40}).bytes, 10 * (0.75 * row + 3 * kv), 1e-6);
  EXPECT_NEAR(predict(model, cluster, kReplicated, {.rows = 40}).bytes, 10 * 3 * sum, 1e-6);
  // An exchange of nothing takes the latency, bytes their time at the bandwidth.
  const double plain = predict(model, cluster_of({4}, {1e-3, 1e9}), kPlain, {.rows = 40}).exchange;
  EXPECT_NEAR(plain, 32 * (2 * 1e-3 + 10 * 0.75 * (row + sum) / 1e9), 1e-9);
}

TEST(StepCost, OneRankSendsNothing) {
  const StepCost cost = predict(model_of(8, 2), cluster_of({1}, {1e-3, 1e9}), kPlain, {.rows = 8});
  EXPECT_EQ(cost.bytes, 0);
  EXPECT_EQ(cost.exchange, 0);
  EXPECT_GT(cost.seconds, 0);
}

TEST(StepCost, MoreLatencyFavoursFewerExchanges) {
  for (const int top_k : {1, 2}) {
    const ModelCosts model = model_of(16, top_k);
    const StepForm form = top_k == 1 ? kWorld : kReplicated;
    double before = -INFINITY;
    for (const double latency : {1e-6, 1e-5, 1e-4, 1e-3, 1e-2}) {
      const Cluster cluster = cluster_of({1, 1, 1, 1}, {latency, 1.25e9});
      const double gain = seconds(model, cluster, kPlain, 64) - seconds(model, cluster, form, 64);
      EXPECT_GT(gain, before);
      before = gain;
    }
    EXPECT_EQ(choose_form(model, cluster_of({1, 1, 1, 1}, {1e-2, 1.25e9}), {}, {.rows = 64}).form, form);
  }
}

TEST(StepCost, LessBandwidthFavoursFewerBytes) {
  const ModelCosts model = model_of(16, 2);
  double before = INFINITY;
  for (const double bandwidth : {1e11, 1e10, 1e9, 1e8, 1e7}) {
    const Cluster cluster = cluster_of({1, 1, 1, 1}, {1e-5, bandwidth});
    const double gain = seconds(model, cluster, kPlain, 512) - seconds(model, cluster, kReplicated, 512);
    EXPECT_LT(gain, before);
    before = gain;
  }
  EXPECT_EQ(choose_form(model, cluster_of({1, 1, 1, 1}, {1e-5, 1.25e7}), {}, {.rows = 512}).form, kPlain);
}

TEST(StepCost, LargerBatchesEndReplication) {
  const ModelCosts model = model_of(16, 2);
  const Cluster cluster = cluster_of({1, 1, 1, 1}, {1e-3, 1.25e9});
  FormLimits world;
  world.coherence = Coherence::world;
  EXPECT_EQ(choose_form(model, cluster, world, {.rows = 8}).form, kReplicated);
  EXPECT_EQ(choose_form(model, cluster, world, {.rows = 8192}).form, kWorld);
}

TEST(StepCost, SlowLinksBetweenNodesFavourTheNode) {
  // Ranks of a node nearly for nothing, bytes between nodes dear: freight had better stay on the node.
  const Cluster cluster = cluster_of({4, 4}, {1e-3, 1e8});
  const StepForm node{Coherence::node, false, 1};
  EXPECT_LT(seconds(model_of(16, 1), cluster, node, 256), seconds(model_of(16, 1), cluster, kWorld, 256));
}

TEST(FormChoice, KeepsWhatIsFixedAndNeverTakesTheDearer) {
  std::mt19937_64 random(5);
  std::uniform_real_distribution<double> exponent(0, 1);
  for (int i = 0; i < 500; ++i) {
    const int top_k = 1 + static_cast<int>(random() % 4);
    const ModelCosts model = model_of(16, top_k);
    const std::vector<std::vector<int>> topologies{{1}, {4}, {2, 2}, {3, 3, 2}, {1, 1, 1, 1}};
    const Cluster cluster =
        cluster_of(topologies[random() % topologies.size()],
                   {std::pow(10, -6 + 5 * exponent(random)), std::pow(10, 7 + 4 * exponent(random))});
    const StepLoad load{.rows = std::pow(10, 4 * exponent(random)), .context = 100, .prompt_rows = 1};
    FormLimits limits;
    if (random() % 3 == 0) limits.replicate = random() % 2 == 0;
    if (random() % 3 == 0) limits.micro_batches = 1 + static_cast<int>(random() % 2);
    if (random() % 3 == 0) limits.excluded = {Coherence::world};
    const FormChoice choice = choose_form(model, cluster, limits, load);
    EXPECT_DOUBLE_EQ(choice.cost.seconds, predict(model, cluster, choice.form, load).seconds);
    EXPECT_DOUBLE_EQ(choice.plain.seconds, predict(model, cluster, kPlain, load).seconds);
    if (limits.micro_batches) {
      EXPECT_EQ(choice.form.micro_batches, *limits.micro_batches);
    } else {
      EXPECT_LE(choice.cost.seconds, choice.plain.seconds);
    }
    EXPECT_FALSE(choice.form.coherence == Coherence::world && !limits.excluded.empty());
  }
}

TEST(FormChoice, NamesTheForm) {
  EXPECT_EQ(to_string(kPlain), "rank");
  EXPECT_EQ(to_string(StepForm{Coherence::node, true, 2}), "node, dense work replicated, 2 micro-batches");
}

}  // namespace
}  // namespace coterie
