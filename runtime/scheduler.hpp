// Continuous batching on one rank: which sequences run, which rows they bring to a step, and what becomes of the
// logits.
#pragma once

#include "runtime/batch.hpp"
#include "runtime/continuation.hpp"
#include "runtime/kv_pool.hpp"

#include <deque>
#include <functional>
#include <list>
#include <vector>

namespace coterie {

struct SchedulerOptions {
  std::int64_t max_batch_tokens = 512;  ///< rows of this rank in a step
  int max_batch_size = 64;              ///< sequences that run at a time on this rank
};

/// Told of the logits (vocabulary) that follow `position` of the prompt of the request on that input line.
using PromptLogitsObserver =
    std::function<void(const Request& request, std::int64_t position, std::span<const float> logits)>;

/// Requests wait in the order in which they came until there is a place and KV memory for their prompt and all tokens
/// they may generate; so nothing that runs is ever put back. Every running sequence that has read its prompt takes one
/// row of a step; prompts share the rest of the step's rows, first come first served, in chunks.
class Scheduler {
 public:
  /// `kv` and `tokenizer` (may be null) must outlive this object. `end_tokens` are the model's ends of a sequence.
  Scheduler(KvPool& kv, const Tokenizer* tokenizer, std::vector<std::int32_t> end_tokens, SchedulerOptions options);

  /// Positions of the KV cache that a request needs.
  [[nodiscard]] static std::int64_t kv_tokens(const Request& request);

  void observe_prompt_logits(PromptLogitsObserver observer) { observer_ = std::move(observer); }
  void add(Request request) { waiting_.push_back(std::move(request)); }
  [[nodiscard]] bool idle() const noexcept { return running_.empty() && waiting_.empty(); }

  /// The rows of the next step; valid until `accept`. Empty when idle.
  [[nodiscard]] const Batch& next();
  /// Takes the logits of the batch's sampled rows, (sampled, vocabulary), and returns the requests that are done.
  [[nodiscard]] std::vector<Completion> accept(std::span<const float> logits);

 private:
  struct Sequence {
    Continuation continuation;
    std::vector<std::int32_t> blocks;
    std::uint64_t key = 0;      ///< of the request's random numbers
    std::int64_t computed = 0;  ///< positions whose K and V are in the cache

    [[nodiscard]] std::int64_t prompt_size() const;
    [[nodiscard]] std::int32_t token(std::int64_t position) const;
  };

  void admit();
  void add_rows(Sequence& sequence, std::int64_t rows);
  [[nodiscard]] bool wants_prompt_logits(const Sequence& sequence) const;
  void take_logits(Sequence& sequence, std::int64_t position, std::span<const float> logits);

  KvPool& kv_;
  const Tokenizer* tokenizer_;
  std::vector<std::int32_t> end_tokens_;
  SchedulerOptions options_;
  PromptLogitsObserver observer_;
  std::deque<Request> waiting_;
  std::list<Sequence> running_;  ///< by age
  Batch batch_;
  std::vector<Sequence*> in_batch_;  ///< (batch_.sequences)
};

}  // namespace coterie
