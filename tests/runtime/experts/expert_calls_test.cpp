// Experts computed while others' weights are under way: in whatever pieces and order, the results are the same bits.
#include "runtime/experts/expert_calls.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>

namespace coterie {
namespace {

/// An exchange that is here after so many questions.
class SlowCommunicator final : public Communicator {
 public:
  explicit SlowCommunicator(int questions) : left_(questions) {}

  [[nodiscard]] int rank() const noexcept override { return 0; }
  [[nodiscard]] int ranks() const noexcept override { return 1; }
  [[nodiscard]] std::span<const int> node_of_rank() const noexcept override { return {}; }
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte>, const Place&) override {
    return {};
  }
  void begin(Outbox outbox, const Place&) override { messages_ = std::move(outbox); }
  [[nodiscard]] bool progress() override { return left_ == 0 || --left_ == 0; }
  [[nodiscard]] Inbox& wait_for_rows() override { return messages_; }
  [[nodiscard]] Inbox finish() override { return std::move(messages_); }

  [[nodiscard]] int left() const { return left_; }

 private:
  int left_;
  Outbox messages_;
};

class ExpertCallsTest : public testing::Test {
 protected:
  static constexpr std::int64_t kHidden = 256, kWidth = 512;  // a piece is about 127 rows
  static constexpr int kExperts = 5, kTopK = 2;

  ExpertCallsTest() {
    const auto pack = [&](std::int64_t rows, std::int64_t cols) {
      return device_->pack({rows, cols, [&](std::int64_t, std::int64_t count, float* out) {
                              std::generate_n(out, count * cols, [&] { return number_(random_); });
                            }});
    };
    for (int e = 0; e < kExperts; ++e) {
      experts_.push_back(std::make_unique<ExpertWeights>());
      experts_.back()->gate_up = pack(2 * kWidth, kHidden);
      experts_.back()->down = pack(kHidden, kWidth);
    }
    std::vector<Route> routes(600);
    for (Route& route : routes) route.expert = static_cast<std::int32_t>(random_() % 9 == 0 ? random_() % kExperts : 3);
    groups_ = group_by_expert(routes, kTopK, kExperts);
    const auto pairs = static_cast<std::int64_t>(groups_.arrived.size());
    in_ = device_->allocate(pairs, kHidden, memory_[0]);
    out_ = device_->allocate(pairs, kHidden, memory_[1]);
    std::vector<float> numbers(static_cast<std::size_t>(pairs * kHidden));
    for (float& x : numbers) x = number_(random_);
    device_->upload(numbers, in_);
  }

  /// Experts with `late` come with the exchange, which takes `questions`.
  std::vector<float> outputs(const std::vector<bool>& late, SlowCommunicator& comm) {
    Exchange exchange(comm, Outbox(1), {"dispatch"});
    bool taken = false;
    const auto weights = [&](std::int32_t e) { return late[e] && !taken ? nullptr : experts_[e].get(); };
    const auto take = [&](Inbox& inbox) {
      EXPECT_EQ(inbox.size(), 1U);
      EXPECT_FALSE(std::exchange(taken, true));
    };
    compute_experts({groups_, 0, in_, out_, weights, take}, exchange, *device_);
    EXPECT_TRUE(taken);
    std::vector<float> out(static_cast<std::size_t>(out_.rows * out_.cols));
    device_->download(out_, out);
    return out;
  }

  std::mt19937 random_{5};
  std::uniform_real_distribution<float> number_{-1, 1};
  std::unique_ptr<Device> device_ = make_cpu_device({DType::f32, 2});
  std::vector<std::unique_ptr<ExpertWeights>> experts_;
  GroupedRows groups_;
  DeviceMemory memory_[2];
  Tensor in_, out_;
};

TEST_F(ExpertCallsTest, TheSameBitsHoweverLongWeightsTake) {
  SlowCommunicator at_once(0);
  const auto expected = outputs(std::vector<bool>(kExperts, false), at_once);
  for (const int questions : {2, 1000}) {
    for (int pattern = 0; pattern < 1 << kExperts; pattern += 5) {
      std::vector<bool> late;
      for (int e = 0; e < kExperts; ++e) late.push_back((pattern >> e & 1) != 0);
      SlowCommunicator comm(questions);
      EXPECT_TRUE(outputs(late, comm) == expected) << questions << " questions, pattern " << pattern;
    }
  }
}

TEST_F(ExpertCallsTest, TheExchangeMovesOnBetweenPiecesOfOneExpertsRows) {
  SlowCommunicator comm(1000);
  std::vector<bool> late(kExperts, true);
  late[3] = false;  // has most rows
  (void)outputs(late, comm);
  EXPECT_LT(comm.left(), 1000 - 3);
}

/// Each piece reads all the weights, which takes longer than the products of a few rows.
TEST_F(ExpertCallsTest, PiecesOfALargeExpertHaveManyRows) {
  constexpr std::int64_t kLarge = 2048, kRows = 64;
  const auto zeros = [&](std::int64_t rows) {
    return device_->pack(
        {rows, kLarge, [=](std::int64_t, std::int64_t count, float* out) { std::fill_n(out, count * kLarge, 0.0F); }});
  };
  ExpertWeights expert;
  expert.gate_up = zeros(2 * kLarge);
  expert.down = zeros(kLarge);
  DeviceMemory in_memory, out_memory;
  const Tensor in = device_->allocate(kRows, kLarge, in_memory), out = device_->allocate(kRows, kLarge, out_memory);
  device_->upload(std::vector<float>(kRows * kLarge, 1), in);
  SlowCommunicator comm(1000);
  Exchange exchange(comm, Outbox(1), {"dispatch"});
  const std::vector<ExpertRows> calls{{&expert, 0, kRows}};
  EXPECT_TRUE(compute_meanwhile(exchange, calls, in, out, *device_).empty());
  EXPECT_GE(comm.left(), 1000 - kRows / 16);
  (void)exchange.all();
}

TEST_F(ExpertCallsTest, AnExpertWhoseWeightsNeverComeIsAFault) {
  Exchange nothing;
  const auto none = [](std::int32_t) -> const ExpertWeights* { return nullptr; };
  try {
    compute_experts({groups_, 7, in_, out_, none, [](Inbox&) {}}, nothing, *device_);
    FAIL() << "no CommError";
  } catch (const CommError& e) {
    EXPECT_EQ(std::string(e.what()), "layer 7: a row arrived for expert 0, which this rank doesn't have");
  }
}

}  // namespace
}  // namespace coterie
