// The job's metrics against what was counted by other means: bytes on the wire, the routing, the requests.
#include "runtime/engine/metrics.hpp"

#include "comm/communicator.hpp"
#include "runtime/families/family.hpp"
#include "tests/mpi_main.hpp"
#include "tests/runtime/test_job.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace coterie {
namespace {

using nlohmann::json;

struct Form {
  const char* name;
  const char* model;
  Coherence coherence;
  bool replicate;
};

class MetricsTest : public testing::TestWithParam<Form> {
 protected:
  MetricsTest() {
    const auto model = std::filesystem::path(COTERIE_FIXTURES) / "models" / GetParam().model;
    spec_ = read_model_spec(model);
    const Reference reference = read_reference(model);
    std::vector<Request> requests;
    for (std::size_t i = 0; i < 3; ++i) requests.push_back(greedy_request(reference, i));
    for (const Request& r : requests) tokens_ += static_cast<std::int64_t>(r.prompt.size()) + r.max_tokens - 1;
    JobOptions options;
    options.coherence = GetParam().coherence;
    options.scheduler.replicate = GetParam().replicate;
    result_ = run_job(model, requests, options, comm_);
  }
  [[nodiscard]] double both(const char* field) const {
    return result_.metrics["prefill"][field].get<double>() + result_.metrics["decode"][field].get<double>();
  }
  [[nodiscard]] double layers() const { return static_cast<double>(spec_.moe_layer_ids().size()); }
  /// Bytes of a section over all ranks, as the communicator counted them.
  [[nodiscard]] double wire_bytes(const char* section) const {
    double sum = 0;
    for (const json& c : result_.metrics["collectives"]) {
      if (c["layer"] >= 0) sum += c["section_bytes"].value(section, 0.0);
    }
    return sum;
  }

  // Two ranks a node: with one host, that is how a job has several.
  std::unique_ptr<Communicator> transport_ = make_mpi_communicator(test_session(), {.ranks_per_node = 2});
  CountingCommunicator comm_{*transport_};
  ModelSpec spec_;
  std::int64_t tokens_ = 0;  ///< that go through the model
  JobResult result_;
};

TEST_P(MetricsTest, RowsAreThoseOfTheRequestsAndTheirRouting) {
  if (comm_.rank() != 0) return;
  const double ranks = GetParam().replicate ? comm_.ranks() : 1;  // of decode rows' dense work, with one domain
  const double prompts = result_.metrics["tokens"]["prompt"];
  EXPECT_EQ(both("tokens"), tokens_);
  EXPECT_EQ(both("dense_rows"), layers() * (prompts + ranks * (static_cast<double>(tokens_) - prompts)));
  EXPECT_EQ(both("expert_rows"), layers() * spec_.top_k() * static_cast<double>(tokens_)) << "nothing is done twice";
  double by_rank = 0;
  for (const json& rank : result_.metrics["ranks"]) {
    const auto per_layer = rank["expert_rows_per_layer"].get<std::vector<std::int64_t>>();
    EXPECT_EQ(per_layer.size(), spec_.moe_layer_ids().size());
    by_rank += static_cast<double>(std::accumulate(per_layer.begin(), per_layer.end(), std::int64_t{0}));
  }
  EXPECT_EQ(by_rank, both("expert_rows"));
}

TEST_P(MetricsTest, RowsSentAreTheBytesOnTheWire) {
  if (comm_.rank() != 0) return;
  const double row = static_cast<double>(spec_.hidden) * sizeof(float);
  EXPECT_EQ(both("rows_sent") * row, wire_bytes("rows"));
  // Labels of partial sums and freight are padded, so their sections are a little larger.
  const double messages = std::accumulate(
      result_.metrics["collectives"].begin(), result_.metrics["collectives"].end(), 0.0,
      [](double sum, const json& c) { return sum + (c["layer"] >= 0 ? c["messages"].get<double>() : 0.0); });
  const auto expect_labelled = [&](const char* section, double rows, double bytes) {
    EXPECT_GE(wire_bytes(section), rows * (bytes + sizeof(std::int32_t))) << section;
    EXPECT_LE(wire_bytes(section), rows * (bytes + sizeof(std::int32_t)) + 64 * messages) << section;
  };
  expect_labelled("partial_sums", both("partial_sums_sent"), row);
  const double kv = static_cast<double>(spec_.kv_elements_per_token()) / static_cast<double>(spec_.layers.size());
  expect_labelled("freight", both("freight_rows_sent"), kv * sizeof(float));
}

TEST_P(MetricsTest, WhatAFormNeverSendsIsNone) {
  if (comm_.rank() != 0) return;
  const json& decode = result_.metrics["decode"];
  const bool world = GetParam().coherence == Coherence::world && comm_.ranks() > 1;
  if (GetParam().coherence == Coherence::rank) {
    EXPECT_EQ(both("freight_rows_sent"), 0);
    EXPECT_EQ(both("moved_rows"), 0);
    EXPECT_EQ(both("rows_sent"), both("partial_sums_sent")) << "one comes back for each that goes";
    EXPECT_EQ(decode["exchanges_per_layer_and_step"], 2);
    EXPECT_EQ(decode["share_stayed"], 1);
  }
  if (world && GetParam().replicate) {
    EXPECT_EQ(decode["rows_sent"], 0);
    EXPECT_EQ(decode["freight_rows_sent"], 0);
    EXPECT_EQ(decode["exchanges_per_layer_and_step"], 1);
  }
  if (world && !GetParam().replicate) {
    EXPECT_EQ(decode["freight_rows_sent_per_token_and_layer"], comm_.ranks() - 1);
    if (spec_.top_k() == 1) {
      EXPECT_EQ(decode["partial_sums_sent"], 0);
      EXPECT_EQ(decode["rows_sent"], decode["moved_rows"]) << "a row goes only to where it goes on";
      EXPECT_EQ(decode["exchanges_per_layer_and_step"], 1);
    }
  }
}

TEST_P(MetricsTest, KvMemoryIsNamedByDomain) {
  if (comm_.rank() != 0) return;
  const int ranks = comm_.ranks();
  const int domains = GetParam().coherence == Coherence::rank    ? ranks
                      : GetParam().coherence == Coherence::world ? 1
                                                                 : (ranks + 1) / 2;
  const json& kv = result_.metrics["kv_memory"];
  ASSERT_EQ(kv.size(), domains);
  std::size_t named = 0;
  for (const json& domain : kv) {
    named += domain["ranks"].size();
    EXPECT_GT(domain["bytes_per_rank"], 0);
    EXPECT_LE(domain["peak_bytes_per_rank"], domain["bytes_per_rank"]);
  }
  EXPECT_EQ(named, ranks);
  EXPECT_GT(kv[0]["peak_bytes_per_rank"], 0);
}

constexpr Form kForms[] = {{"plain", "olmoe", Coherence::rank, false},
                           {"node", "olmoe", Coherence::node, false},
                           {"world", "olmoe", Coherence::world, false},
                           {"replicated", "olmoe", Coherence::world, true},
                           {"top1", "olmoe-top1", Coherence::world, false}};
INSTANTIATE_TEST_SUITE_P(Forms, MetricsTest, testing::ValuesIn(kForms),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace coterie
