// Continuous batching in one coherence domain: which sequences run, which rows they bring to a step, and what becomes
// of the logits.
#pragma once

#include "runtime/layers/batch.hpp"
#include "runtime/layers/domains.hpp"
#include "runtime/layers/kv_pool.hpp"
#include "runtime/requests/continuation.hpp"

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

/// Told of the logits (vocabulary) that follow each position of a request's prompt, in their order, on the rank where
/// it is at home.
using PromptLogitsObserver = std::function<void(const Request& request, std::span<const float> logits)>;

/// The next token of the sequence whose last row this was.
struct RowSample {
  std::int32_t row = 0;  ///< of the step's batch
  Sampled sampled;
};

/// The ranks of a domain all run the same scheduler with the same requests in the same order, and tell one another the
/// tokens that they sampled; so they agree on every batch and every block of the KV cache without further talk.
///
/// A step doesn't wait for the others' tokens of the step before. A sequence goes on on the rank that sampled its last
/// token and knows it, and the others hear of it while that step is under way. What all ranks must agree on, such as
/// the end of a sequence, follows from tokens that all have heard of; a sequence that ended by itself therefore has one
/// more row in a batch, which begins nowhere.
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
  /// Takes a token of the step before, the same on all ranks of the domain. Throws std::runtime_error when this rank
  /// sampled another one for the same row.
  void accept(const RowSample& sample);
  /// Whether show() wants the logits of a sampled row.
  [[nodiscard]] bool observes(std::int32_t row) const;
  void show(std::int32_t row, std::span<const float> logits) const;
  /// After all tokens of the step before, on the rank where a sampled row ended: what is wanted of its logits; nothing
  /// where the sequence has ended.
  [[nodiscard]] std::optional<RowSampling> wanted(std::int32_t row) const;
  /// What came of that; returns the next token where there is one that the domain's ranks, this one too, are to accept
  /// in the next step.
  [[nodiscard]] std::optional<Sampled> take(std::int32_t row, Sampled sampled);
  /// Ends the step: takes away the requests that are done, and returns those that are at home on this rank.
  [[nodiscard]] std::vector<Completion> finished();

 private:
  struct Sequence {
    Continuation continuation;
    std::vector<std::int32_t> blocks;
    std::uint64_t key = 0;  ///< of the request's random numbers
    int home = 0;
    std::int64_t computed = 0;  ///< positions whose K and V are in the cache
    std::int64_t announced =
        0;                    ///< generated tokens that all ranks of the domain have; the last one's rank has one more
    bool replicated = false;  ///< its last row was
    bool released = false;    ///< its memory and its place are free for others

    [[nodiscard]] std::int64_t prompt_size() const;
    [[nodiscard]] bool reads_prompt() const { return computed < prompt_size(); }
    /// Whether this rank, or whether all ranks have the token at this position.
    [[nodiscard]] bool known(std::int64_t position) const;
    [[nodiscard]] bool known_to_all(std::int64_t position) const;
    [[nodiscard]] std::int32_t token(std::int64_t position) const;
    /// For all that the domain's ranks have heard.
    [[nodiscard]] bool done() const;
  };

  [[nodiscard]] Sequence& sequence_of(std::int32_t row) const { return *in_batch_[batch_.sequence[row]]; }
  void admit();
  [[nodiscard]] int emptiest_rank() const;
  void add_rows(Sequence& sequence, std::int64_t rows);
  [[nodiscard]] bool begins_here(const Sequence& sequence) const;
  void release(Sequence& sequence);
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
  std::vector<Sequence*> in_batch_;    ///< (batch_.sequences)
  std::vector<Sequence*> last_batch_;  ///< (rows of the step before); only those of rows with a token to come are valid
};

}  // namespace coterie
