#include "runtime/engine/scheduler.hpp"

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

  std::optional<Sampled> sample(Scheduler& scheduler, std::int32_t row, std::vector<float> logits) {
    const auto wanted = scheduler.wanted(row);
    if (!wanted) return std::nullopt;
    const Tensor tensor{reinterpret_cast<std::byte*>(logits.data()), DType::f32, 1, kVocabulary, kVocabulary};
    return scheduler.take(row, device_->sample(tensor, {&*wanted, 1}).front());
  }

  /// Ends a step in which every sampled row chooses `token`.
  std::vector<Completion> end_step(Scheduler& scheduler, const Batch& batch, std::int32_t token) {
    std::vector<float> logits(kVocabulary, 0.0F);
    logits[token] = 1.0F;
    for (const std::int32_t row : sampled_rows(batch)) {
      EXPECT_FALSE(sample(scheduler, row, logits)) << "there is nobody to tell";
    }
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

/// The two ranks of a domain, in which even rows end on rank 0 and odd ones on rank 1.
class TwoRanksTest : public SchedulerTest {
 protected:
  void add(const Request& request) {
    for (Scheduler* s : {&a_, &b_}) s->add(request);
  }

  /// One step; every sampled row chooses `token`. Returns the requests answered by rank 0 and by rank 1.
  std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>> step(std::int32_t token) {
    const Batch& of_a = a_.next();
    const Batch& of_b = b_.next();
    rows_ = requests(of_a);
    begun_ = 0;
    EXPECT_EQ(requests(of_b), rows_);
    EXPECT_EQ(positions(of_a), positions(of_b));
    for (std::size_t s = 0; s < of_a.sequences.size(); ++s) {
      EXPECT_TRUE(std::ranges::equal(of_a.sequences[s].blocks, of_b.sequences[s].blocks));
      EXPECT_EQ(of_a.sequences[s].home, of_b.sequences[s].home);
      EXPECT_FALSE(of_a.sequences[s].here && of_b.sequences[s].here);
      const bool begins = of_a.sequences[s].here || of_b.sequences[s].here;
      begun_ += begins ? 1 : 0;
      if (begins && !of_a.sequences[s].prompt) {
        EXPECT_EQ((of_a.sequences[s].here ? of_a : of_b).tokens[of_a.sequences[s].first_row], last_token_);
      }
    }
    for (const RowSample& sample : std::exchange(samples_, {})) {
      a_.accept(sample);
      b_.accept(sample);
    }
    std::vector<float> logits(kVocabulary, 0.0F);
    logits[token] = 1.0F;
    for (const std::int32_t row : sampled_rows(of_a)) {
      const BatchSequence& sequence = of_a.of(row);
      if (!sequence.here && !of_b.of(row).here) continue;
      Scheduler& where = sequence.prompt ? (sequence.home == 0 ? a_ : b_) : row % 2 == 0 ? a_ : b_;
      if (auto sampled = sample(where, row, logits)) samples_.push_back({row, *sampled});
    }
    last_token_ = token;
    std::pair<std::vector<std::int64_t>, std::vector<std::int64_t>> done;
    for (const Completion& c : a_.finished()) done.first.push_back(c.request.line);
    for (const Completion& c : b_.finished()) done.second.push_back(c.request.line);
    EXPECT_EQ(kv_a_.free_blocks(), kv_b_.free_blocks());
    return done;
  }

  const Domains first_{Coherence::world, 0, std::vector<int>{0, 0}};
  const Domains second_{Coherence::world, 1, std::vector<int>{0, 0}};
  KvPool kv_a_{spec_, *device_, 16};
  KvPool kv_b_{spec_, *device_, 16};
  Scheduler a_{kv_a_, nullptr, {7}, first_, {.max_batch_tokens = 8, .max_batch_size = 2}};
  Scheduler b_{kv_b_, nullptr, {7}, second_, {.max_batch_tokens = 8, .max_batch_size = 2}};
  std::vector<RowSample> samples_;  ///< of the last step
  std::vector<std::int64_t> rows_;  ///< the last batch's requests
  int begun_ = 0;                   ///< those that began on a rank
  std::int32_t last_token_ = 0;
};

TEST_F(TwoRanksTest, AgreeOnEveryBatchThoughEachHearsOfTheOthersTokensAStepLater) {
  for (int line = 1; line <= 6; ++line) add(request(line, 3, 2 + line % 3));
  std::size_t done = 0;
  for (int i = 0; i < 50 && done < 6; ++i) {
    const auto [by_a, by_b] = step(i % 7);
    done += by_a.size() + by_b.size();  // each by the rank where it is at home
  }
  EXPECT_EQ(done, 6U);
  EXPECT_EQ(kv_a_.free_blocks(), 16);
}

TEST_F(TwoRanksTest, ASequenceThatReachedItsLengthIsReplacedInTheNextStep) {
  for (int line = 1; line <= 5; ++line) add(request(line, 1, 2));
  (void)step(1);
  (void)step(2);
  EXPECT_EQ(rows_, (std::vector<std::int64_t>{1, 2, 3, 4}));
  const auto [by_a, by_b] = step(3);
  EXPECT_EQ(rows_, (std::vector<std::int64_t>{5}));
  EXPECT_EQ(by_a.size() + by_b.size(), 4U);
}

TEST_F(TwoRanksTest, ASequenceThatEndsByItselfHasOneMoreRowThatBeginsNowhere) {
  add(request(1, 1, 9));
  (void)step(1);
  (void)step(7);  // 7 ends a sequence
  EXPECT_EQ(begun_, 1);
  const auto [by_a, by_b] = step(0);
  EXPECT_EQ(rows_, (std::vector<std::int64_t>{1}));
  EXPECT_EQ(begun_, 0);
  EXPECT_EQ(by_a, (std::vector<std::int64_t>{1}));
  EXPECT_TRUE(by_b.empty());
  (void)step(0);
  EXPECT_TRUE(rows_.empty());
}

TEST_F(SchedulerTest, ReplicatedRowsAreSampledOnAllRanksAndAnnouncedByOne) {
  const std::vector<int> one_node{0, 0};
  const Domains home(Coherence::world, 0, one_node);
  const Domains other(Coherence::world, 1, one_node);
  KvPool kv_home(spec_, *device_, 8), kv_other(spec_, *device_, 8);
  const SchedulerOptions options{.max_batch_tokens = 8, .max_batch_size = 2, .replicate = true};
  Scheduler a(kv_home, nullptr, {7}, home, options);
  Scheduler b(kv_other, nullptr, {7}, other, options);
  const std::vector<float> ones{0, 1, 0, 0, 0, 0, 0, 0}, twos{0, 0, 1, 0, 0, 0, 0, 0};
  for (Scheduler* s : {&a, &b}) s->add(request(1, 1, 9));

  EXPECT_TRUE(a.next().sequences.at(0).here);  // the prompt, at home
  EXPECT_FALSE(b.next().sequences.at(0).here);
  const RowSample first{0, sample(a, 0, ones).value()};
  for (Scheduler* s : {&a, &b}) {
    (void)s->finished();
    EXPECT_EQ(s->next().rows(), 0);  // until both know the token
    s->accept(first);
    (void)s->finished();
    const Batch& batch = s->next();
    EXPECT_TRUE(batch.sequences.at(0).here);
    EXPECT_EQ(batch.tokens, (std::vector<std::int32_t>{1}));
  }
  const RowSample second{0, sample(a, 0, twos).value()};
  EXPECT_FALSE(sample(b, 0, ones));
  for (Scheduler* s : {&a, &b}) {
    (void)s->finished();
    EXPECT_EQ(s->next().rows(), 1);
  }
  a.accept(second);
  EXPECT_THROW(b.accept(second), std::runtime_error);  // it computed another one
}

}  // namespace
}  // namespace coterie
