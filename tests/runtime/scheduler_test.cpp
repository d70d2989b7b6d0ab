#include "runtime/scheduler.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace coterie {
namespace {

constexpr std::int64_t kVocabulary = 8;

/// One layer of the smallest attention there is: the scheduler needs a pool, not a model.
ModelSpec tiny_spec() {
  ModelSpec spec;
  spec.layers.resize(1);
  spec.layers[0].attention.shape = {.heads = 1, .kv_heads = 1, .head_dim = 2};
  return spec;
}

class SchedulerTest : public testing::Test {
 protected:
  Scheduler make(std::int64_t blocks, SchedulerOptions options) {
    kv_ = std::make_unique<KvPool>(spec_, *device_, blocks);
    return Scheduler(*kv_, nullptr, {7}, options);
  }

  static Request request(std::int64_t line, std::size_t prompt, int max_tokens) {
    Request r;
    r.custom_id = "r" + std::to_string(line);
    r.line = line;
    r.prompt.resize(prompt);
    std::iota(r.prompt.begin(), r.prompt.end(), 0);
    r.max_tokens = max_tokens;
    r.sampling.temperature = 0;
    return r;
  }

  /// Logits by which every sampled row chooses `token`.
  static std::vector<float> choose(const Batch& batch, std::int32_t token) {
    std::vector<float> logits(batch.sampled.size() * kVocabulary, 0.0F);
    for (std::size_t i = 0; i < batch.sampled.size(); ++i) logits[i * kVocabulary + token] = 1.0F;
    return logits;
  }

  ModelSpec spec_ = tiny_spec();
  std::unique_ptr<Device> device_ = make_cpu_device({});
  std::unique_ptr<KvPool> kv_;
};

TEST_F(SchedulerTest, ReadsAPromptInChunksAndThenDecodes) {
  Scheduler scheduler = make(8, {.max_batch_tokens = 4, .max_batch_size = 4});
  scheduler.add(request(1, 10, 2));
  for (const std::int64_t first : {0, 4}) {
    const Batch& batch = scheduler.next();
    EXPECT_EQ(batch.positions, (std::vector<std::int64_t>{first, first + 1, first + 2, first + 3}));
    EXPECT_TRUE(batch.sampled.empty());
    EXPECT_TRUE(scheduler.accept({}).empty());
  }
  const Batch& last_chunk = scheduler.next();
  EXPECT_EQ(last_chunk.tokens, (std::vector<std::int32_t>{8, 9}));
  EXPECT_EQ(last_chunk.sampled, (std::vector<std::int32_t>{1}));
  EXPECT_TRUE(scheduler.accept(choose(last_chunk, 5)).empty());

  const Batch& decode = scheduler.next();
  EXPECT_EQ(decode.tokens, (std::vector<std::int32_t>{5}));
  EXPECT_EQ(decode.positions, (std::vector<std::int64_t>{10}));
  EXPECT_EQ(decode.prompt_rows, 0);
  const auto done = scheduler.accept(choose(decode, 6));
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].tokens, (std::vector<std::int32_t>{5, 6}));
  EXPECT_EQ(done[0].finish_reason, FinishReason::length);
  EXPECT_TRUE(scheduler.idle());
  EXPECT_EQ(kv_->free_blocks(), 8);
}

TEST_F(SchedulerTest, DecodeRowsComeFirstAndPromptsShareTheRest) {
  Scheduler scheduler = make(16, {.max_batch_tokens = 6, .max_batch_size = 4});
  scheduler.add(request(1, 2, 4));
  (void)scheduler.accept(choose(scheduler.next(), 3));
  scheduler.add(request(2, 4, 4));
  scheduler.add(request(3, 4, 4));
  const Batch& batch = scheduler.next();
  EXPECT_EQ(batch.requests, (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(batch.rows(), 6);
  EXPECT_EQ(batch.sequences[2].rows, 1);
  EXPECT_EQ(batch.sampled, (std::vector<std::int32_t>{0, 4}));  // the third is not through its prompt
}

TEST_F(SchedulerTest, WhatDoesNotFitWaitsInItsOrder) {
  Scheduler scheduler = make(2, {.max_batch_tokens = 64, .max_batch_size = 4});
  scheduler.add(request(1, 16, 1));   // one block
  scheduler.add(request(2, 17, 16));  // two
  scheduler.add(request(3, 1, 1));    // would fit, but came later
  const Batch& first = scheduler.next();
  EXPECT_EQ(first.requests, (std::vector<std::int64_t>{1}));
  EXPECT_EQ(scheduler.accept(choose(first, 3)).size(), 1U);
  const Batch& second = scheduler.next();
  EXPECT_EQ(second.requests, (std::vector<std::int64_t>{2}));
}

TEST_F(SchedulerTest, AFinishedSequenceIsReplacedInTheNextStep) {
  Scheduler scheduler = make(8, {.max_batch_tokens = 64, .max_batch_size = 1});
  scheduler.add(request(1, 2, 10));
  scheduler.add(request(2, 2, 10));
  (void)scheduler.next();
  const auto done = scheduler.accept(choose(scheduler.next(), 7));  // 7 ends a sequence
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].finish_reason, FinishReason::stop);
  EXPECT_EQ(scheduler.next().requests, (std::vector<std::int64_t>{2}));
}

TEST_F(SchedulerTest, AnEchoedPromptGetsALogprobForEveryTokenButTheFirst) {
  Scheduler scheduler = make(8, {.max_batch_tokens = 2, .max_batch_size = 1});
  Request r = request(1, 5, 0);
  r.echo = true;
  r.sampling.logprobs = 1;
  scheduler.add(r);
  std::vector<Completion> done;
  for (int step = 0; step < 3; ++step) {
    ASSERT_TRUE(done.empty());
    const Batch& batch = scheduler.next();
    done = scheduler.accept(choose(batch, 2));
  }
  ASSERT_EQ(done.size(), 1U);
  EXPECT_TRUE(done[0].tokens.empty());
  ASSERT_EQ(done[0].prompt_logprobs.size(), 4U);
  EXPECT_GT(done[0].prompt_logprobs[1].chosen, done[0].prompt_logprobs[0].chosen);  // token 2 is the likeliest
  EXPECT_EQ(done[0].prompt_logprobs[0].top.at(0).first, 2);
}

TEST_F(SchedulerTest, NeverMoreSequencesThanRowsOfAStep) {
  Scheduler scheduler = make(64, {.max_batch_tokens = 3, .max_batch_size = 10});
  for (int line = 1; line <= 6; ++line) scheduler.add(request(line, 1, 5));
  int finished = 0;
  for (int step = 0; step < 100 && !scheduler.idle(); ++step) {
    const Batch& batch = scheduler.next();
    EXPECT_LE(batch.rows(), 3);
    EXPECT_GT(batch.rows(), 0);
    finished += static_cast<int>(scheduler.accept(choose(batch, 1)).size());
  }
  EXPECT_EQ(finished, 6);
}

}  // namespace
}  // namespace coterie
