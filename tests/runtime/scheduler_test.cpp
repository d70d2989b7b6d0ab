#include "runtime/scheduler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
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
    return Scheduler(*kv_, nullptr, {7}, domains_, options);
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

  static std::vector<std::int32_t> sampled_rows(const Batch& batch) {
    std::vector<std::int32_t> rows;
    for (std::int32_t row = 0; row < batch.rows(); ++row) {
      if (batch.sampled[row] != 0) rows.push_back(row);
    }
    return rows;
  }
  static std::vector<std::int64_t> positions(const Batch& batch) {
    std::vector<std::int64_t> out;
    for (std::int32_t row = 0; row < batch.rows(); ++row) out.push_back(batch.position(row));
    return out;
  }
  static std::vector<std::int64_t> requests(const Batch& batch) {
    std::vector<std::int64_t> out;
    for (const BatchSequence& s : batch.sequences) out.push_back(s.request);
    return out;
  }

  /// Ends a step in which every sampled row chooses `token` on rank 0.
  static std::vector<Completion> end_step(Scheduler& scheduler, const Batch& batch, std::int32_t token) {
    std::vector<float> logits(kVocabulary, 0.0F);
    logits[token] = 1.0F;
    std::vector<RowSample> samples;
    for (const std::int32_t row : sampled_rows(batch)) {
      if (auto sampled = scheduler.sample(row, logits)) samples.push_back({row, *sampled});
    }
    for (const RowSample& sample : samples) scheduler.accept(0, sample);
    return scheduler.finished();
  }

  ModelSpec spec_ = tiny_spec();
  Domains domains_{Coherence::rank, 0, std::vector<int>{0}};
  std::unique_ptr<Device> device_ = make_cpu_device({});
  std::unique_ptr<KvPool> kv_;
};

TEST_F(SchedulerTest, ReadsAPromptInChunksAndThenDecodes) {
  Scheduler scheduler = make(8, {.max_batch_tokens = 4, .max_batch_size = 4});
  scheduler.add(request(1, 10, 2));
  for (const std::int64_t first : {0, 4}) {
    const Batch& batch = scheduler.next();
    EXPECT_EQ(positions(batch), (std::vector<std::int64_t>{first, first + 1, first + 2, first + 3}));
    EXPECT_TRUE(sampled_rows(batch).empty());
    EXPECT_TRUE(end_step(scheduler, batch, 0).empty());
  }
  const Batch& last_chunk = scheduler.next();
  EXPECT_EQ(last_chunk.tokens, (std::vector<std::int32_t>{8, 9}));
  EXPECT_EQ(sampled_rows(last_chunk), (std::vector<std::int32_t>{1}));
  EXPECT_TRUE(end_step(scheduler, last_chunk, 5).empty());

  const Batch& decode = scheduler.next();
  EXPECT_EQ(decode.tokens, (std::vector<std::int32_t>{5}));
  EXPECT_EQ(positions(decode), (std::vector<std::int64_t>{10}));
  EXPECT_FALSE(decode.sequences.at(0).prompt);
  const auto done = end_step(scheduler, decode, 6);
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].tokens, (std::vector<std::int32_t>{5, 6}));
  EXPECT_EQ(done[0].finish_reason, FinishReason::length);
  EXPECT_EQ(scheduler.next().rows(), 0);
  EXPECT_EQ(kv_->free_blocks(), 8);
}

TEST_F(SchedulerTest, DecodeRowsComeFirstAndPromptsShareTheRest) {
  Scheduler scheduler = make(16, {.max_batch_tokens = 6, .max_batch_size = 4});
  scheduler.add(request(1, 2, 4));
  (void)end_step(scheduler, scheduler.next(), 3);
  scheduler.add(request(2, 4, 4));
  scheduler.add(request(3, 4, 4));
  const Batch& batch = scheduler.next();
  EXPECT_EQ(requests(batch), (std::vector<std::int64_t>{1, 2, 3}));
  EXPECT_EQ(batch.rows(), 6);
  EXPECT_EQ(batch.sequences[2].rows, 1);
  EXPECT_EQ(sampled_rows(batch), (std::vector<std::int32_t>{0, 4}));  // the third is not through its prompt
}

TEST_F(SchedulerTest, WhatDoesNotFitWaitsInItsOrder) {
  Scheduler scheduler = make(2, {.max_batch_tokens = 64, .max_batch_size = 4});
  scheduler.add(request(1, 16, 1));   // one block
  scheduler.add(request(2, 17, 16));  // two
  scheduler.add(request(3, 1, 1));    // would fit, but came later
  const Batch& first = scheduler.next();
  EXPECT_EQ(requests(first), (std::vector<std::int64_t>{1}));
  EXPECT_EQ(end_step(scheduler, first, 3).size(), 1U);
  const Batch& second = scheduler.next();
  EXPECT_EQ(requests(second), (std::vector<std::int64_t>{2}));
}

TEST_F(SchedulerTest, AFinishedSequenceIsReplacedInTheNextStep) {
  Scheduler scheduler = make(8, {.max_batch_tokens = 64, .max_batch_size = 1});
  scheduler.add(request(1, 2, 10));
  scheduler.add(request(2, 2, 10));
  (void)scheduler.next();
  const auto done = end_step(scheduler, scheduler.next(), 7);  // 7 ends a sequence
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0].finish_reason, FinishReason::stop);
  EXPECT_EQ(requests(scheduler.next()), (std::vector<std::int64_t>{2}));
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
    done = end_step(scheduler, batch, 2);
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
  for (int step = 0; step < 100 && finished < 6; ++step) {
    const Batch& batch = scheduler.next();
    EXPECT_LE(batch.rows(), 3);
    EXPECT_GT(batch.rows(), 0);
    finished += static_cast<int>(end_step(scheduler, batch, 1).size());
  }
  EXPECT_EQ(finished, 6);
}

TEST_F(SchedulerTest, RanksOfADomainAgreeOnEveryBatch) {
  const Domains first(Coherence::world, 0, std::vector<int>{0, 0});
  const Domains second(Coherence::world, 1, std::vector<int>{0, 0});
  KvPool kv_first(spec_, *device_, 16);
  KvPool kv_second(spec_, *device_, 16);
  const SchedulerOptions options{.max_batch_tokens = 8, .max_batch_size = 2};
  Scheduler a(kv_first, nullptr, {7}, first, options);
  Scheduler b(kv_second, nullptr, {7}, second, options);
  for (int line = 1; line <= 6; ++line) {
    a.add(request(line, 3, 2 + line % 3));
    b.add(request(line, 3, 2 + line % 3));
  }
  std::vector<float> logits(kVocabulary, 0.0F);
  int done = 0;
  for (int step = 0; step < 50 && done < 6; ++step) {
    const Batch& of_a = a.next();
    const Batch& of_b = b.next();
    ASSERT_EQ(of_a.tokens, of_b.tokens);
    ASSERT_EQ(requests(of_a), requests(of_b));
    for (std::size_t s = 0; s < of_a.sequences.size(); ++s) {
      EXPECT_TRUE(std::ranges::equal(of_a.sequences[s].blocks, of_b.sequences[s].blocks));
      EXPECT_EQ(of_a.sequences[s].home, of_b.sequences[s].home);
    }
    std::vector<std::pair<int, RowSample>> samples;  // odd rows end on rank 1, and are known to both
    for (const std::int32_t row : sampled_rows(of_a)) {
      Scheduler& where = row % 2 == 1 ? b : a;
      if (auto sampled = where.sample(row, logits)) samples.push_back({row % 2, {row, *sampled}});
    }
    for (const auto& [rank, sample] : samples) {
      a.accept(rank, sample);
      b.accept(rank, sample);
    }
    const auto by_a = a.finished();
    const auto by_b = b.finished();
    EXPECT_EQ(kv_first.free_blocks(), kv_second.free_blocks());
    done += static_cast<int>(by_a.size() + by_b.size());  // each by the rank where it is at home
  }
  EXPECT_EQ(done, 6);
}

}  // namespace
}  // namespace coterie
