// Continuous batching in one coherence domain: which sequences run, which rows they bring to a step, and what becomes
// of the logits.
#pragma once

#include "runtime/batch.hpp"
#include "runtime/continuation.hpp"
#include "runtime/domains.hpp"
#include "runtime/kv_pool.hpp"

#include <deque>
#include <functional>
#include <list>
#include <optional>
#include <vector>

namespace coterie {

struct SchedulerOptions {
  std::int64_t max_batch_tokens = 512;  ///< rows of a step that are at home on one rank
  int max_batch_size = 64;              ///< sequences that run at a time and are at home on one rank
  bool replicate = false;               ///< decode rows are computed on every rank of the domain, but for the experts
};

/// Told of the logits (vocabulary) that follow `position` of a request's prompt, on the rank where it is at home.
using PromptLogitsObserver =
    std::function<void(const Request& request, std::int64_t position, std::span<const float> logits)>;

/// The next token of the sequence whose last row this was.
struct RowSample {
  std::int32_t row = 0;  ///< of the batch
  Sampled sampled;
};

/// The ranks of a domain all run the same scheduler with the same requests in the same order, and tell one another the
/// tokens that they sampled; so they agree on every batch and every block of the KV cache without further talk.
///
/// Requests wait in the order in which they came until there is a place and KV memory for their prompt and all tokens
/// they may generate; so nothing that runs is ever put back. Every running sequence that has read its prompt takes one
/// row of a step; prompts share the rest of the step's rows, first come first served, in chunks.
class Scheduler {
 public:
  /// `kv`, `tokenizer` (may be null) and `domains` must outlive this object. `end_tokens` are the model's ends of a
  /// sequence.
  Scheduler(KvPool& kv, const Tokenizer* tokenizer, std::vector<std::int32_t> end_tokens, const Domains& domains,
            SchedulerOptions options);

  /// Positions of the KV cache that a request needs.
  [[nodiscard]] static std::int64_t kv_tokens(const Request& request);

  void observe_prompt_logits(PromptLogitsObserver observer) { observer_ = std::move(observer); }
  void add(Request request) { waiting_.push_back(std::move(request)); }

  /// The rows of the domain's next step; valid until `finished`. Empty when there is nothing to do.
  [[nodiscard]] const Batch& next();
  /// Takes the logits of a sampled row on the rank where it ended; returns the next token where there is one.
  [[nodiscard]] std::optional<Sampled> sample(std::int32_t row, std::span<const float> logits);
  /// Takes a token that was sampled on `rank`, the same on all ranks of the domain.
  void accept(int rank, const RowSample& sample);
  /// After all tokens of a step: takes away the requests that are done, and returns those that are at home on this
  /// rank.
  [[nodiscard]] std::vector<Completion> finished();

 private:
  struct Sequence {
    Continuation continuation;
    std::vector<std::int32_t> blocks;
    std::uint64_t key = 0;  ///< of the request's random numbers
    int home = 0;
    int at = 0;                 ///< the rank where the next row starts
    std::int64_t computed = 0;  ///< positions whose K and V are in the cache

    [[nodiscard]] std::int64_t prompt_size() const;
    [[nodiscard]] std::int32_t token(std::int64_t position) const;
  };

  void admit();
  [[nodiscard]] int emptiest_rank() const;
  void add_rows(Sequence& sequence, std::int64_t rows);
  [[nodiscard]] bool wants_prompt_logits(const Sequence& sequence) const;

  KvPool& kv_;
  const Tokenizer* tokenizer_;
  std::vector<std::int32_t> end_tokens_;
  const Domains& domains_;
  SchedulerOptions options_;
  PromptLogitsObserver observer_;
  std::deque<Request> waiting_;
  std::list<Sequence> running_;  ///< by age
  std::vector<int> at_home_;     ///< (ranks of the job): running sequences by home
  Batch batch_;
  std::vector<Sequence*> in_batch_;  ///< (batch_.sequences)
};

}  // namespace coterie
