#include "runtime/engine/scheduler.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace coterie {

std::int64_t Scheduler::Sequence::prompt_size() const {
  return static_cast<std::int64_t>(continuation.request().prompt.size());
}

bool Scheduler::Sequence::known(std::int64_t position) const {
  return position - prompt_size() < static_cast<std::int64_t>(continuation.tokens().size());
}

bool Scheduler::Sequence::known_to_all(std::int64_t position) const {
  return position - prompt_size() < announced;
}

std::int32_t Scheduler::Sequence::token(std::int64_t position) const {
  const std::int64_t prompt = prompt_size();
  if (position < prompt) return continuation.request().prompt[position];
  return known(position) ? continuation.tokens()[position - prompt] : 0;
}

bool Scheduler::Sequence::done() const {
  return continuation.finished() && announced == static_cast<std::int64_t>(continuation.tokens().size()) &&
         !reads_prompt();
}

Scheduler::Scheduler(KvPool& kv, const Tokenizer* tokenizer, std::vector<std::int32_t> end_tokens,
                     const Domains& domains, SchedulerOptions options)
    : kv_(kv),
      tokenizer_(tokenizer),
      end_tokens_(std::move(end_tokens)),
      domains_(domains),
      options_(options),
      at_home_(static_cast<std::size_t>(domains.peers().back()) + 1, 0) {
  options_.max_batch_size =
      static_cast<int>(std::min<std::int64_t>(options_.max_batch_size, options_.max_batch_tokens));
  options_.replicate = options.replicate && domains.peers().size() > 1;
}

std::int64_t Scheduler::kv_tokens(const Request& request) {
  // The last token that is generated is never read.
  return static_cast<std::int64_t>(request.prompt.size()) + std::max(0, request.max_tokens - 1);
}

int Scheduler::emptiest_rank() const {
  const auto peers = domains_.peers();
  return *std::min_element(peers.begin(), peers.end(), [&](int a, int b) { return at_home_[a] < at_home_[b]; });
}

void Scheduler::admit() {
  while (!waiting_.empty()) {
    const int home = emptiest_rank();
    if (at_home_[home] >= options_.max_batch_size) return;
    auto blocks = kv_.take(kv_tokens(waiting_.front()));
    if (!blocks) return;
    const std::uint64_t key = request_key(waiting_.front().custom_id);
    running_.push_back(
        {Continuation(std::move(waiting_.front()), tokenizer_, end_tokens_), std::move(*blocks), key, home});
    waiting_.pop_front();
    ++at_home_[home];
  }
}

const Batch& Scheduler::next() {
  admit();
  batch_ = {};
  in_batch_.clear();
  std::vector<std::int64_t> room(at_home_.size(), options_.max_batch_tokens);
  for (Sequence& s : running_) {
    if (s.released || s.reads_prompt()) continue;
    if (options_.replicate && !s.replicated && !s.known_to_all(s.computed)) continue;  // a step later all ranks have it
    add_rows(s, 1);
    --room[s.home];
  }
  for (Sequence& s : running_) {
    const std::int64_t rows = std::min(s.prompt_size() - s.computed, room[s.home]);
    if (s.released || rows <= 0) continue;
    add_rows(s, rows);
    room[s.home] -= rows;
  }
  return batch_;
}

bool Scheduler::wants_prompt_logits(const Sequence& sequence) const {
  const Request& request = sequence.continuation.request();
  return observer_ || (request.echo && request.sampling.logprobs >= 0);
}

void Scheduler::add_rows(Sequence& s, std::int64_t rows) {
  const bool prompt = s.reads_prompt();
  const bool all = wants_prompt_logits(s);
  s.replicated = options_.replicate && !prompt;
  const auto index = static_cast<std::int32_t>(batch_.sequences.size());
  batch_.sequences.push_back({s.continuation.request().line, s.home, begins_here(s), prompt, s.replicated,
                              batch_.rows(), static_cast<std::int32_t>(rows), s.computed,
                              std::max(s.prompt_size(), s.computed + 1), s.blocks});
  for (std::int64_t p = s.computed; p < s.computed + rows; ++p) {
    batch_.tokens.push_back(s.token(p));
    batch_.sequence.push_back(index);
    batch_.sampled.push_back(all || p + 1 >= s.prompt_size() ? 1 : 0);
  }
  in_batch_.push_back(&s);
}

bool Scheduler::begins_here(const Sequence& s) const {
  if (s.replicated) return !s.continuation.finished();
  if (s.reads_prompt() || s.known_to_all(s.computed)) return s.home == domains_.self();
  return s.known(s.computed) && !s.continuation.finished();
}

bool Scheduler::observes(std::int32_t row) const {
  return observer_ && batch_.position(row) < sequence_of(row).prompt_size();
}

void Scheduler::show(std::int32_t row, std::span<const float> logits) const {
  observer_(sequence_of(row).continuation.request(), logits);
}

std::optional<RowSampling> Scheduler::wanted(std::int32_t row) const {
  const Sequence& s = sequence_of(row);
  const Request& request = s.continuation.request();
  const std::int64_t next = batch_.position(row) + 1;
  if (next < s.prompt_size()) {
    if (!request.echo || request.sampling.logprobs < 0) return std::nullopt;
    return given_token(request.sampling, request.prompt[next]);
  }
  if (s.continuation.finished()) return std::nullopt;
  return next_token(request.sampling, s.key, next);
}

std::optional<Sampled> Scheduler::take(std::int32_t row, Sampled sampled) {
  Sequence& s = sequence_of(row);
  if (batch_.position(row) + 1 < s.prompt_size()) {
    s.continuation.add_prompt_logprobs(std::move(sampled.logprobs));
    return std::nullopt;
  }
  s.continuation.add(sampled);
  if (domains_.peers().size() == 1) {
    ++s.announced;
    return std::nullopt;
  }
  if (s.replicated && s.home != domains_.self()) return std::nullopt;  // it is announced once
  return sampled;
}

void Scheduler::accept(const RowSample& sample) {
  Sequence& s = *last_batch_[sample.row];
  if (s.known(s.prompt_size() + s.announced)) {
    const std::int32_t mine = s.continuation.tokens()[s.announced];
    if (mine != sample.sampled.token) {
      throw std::runtime_error("rank " + std::to_string(domains_.self()) + " computed token " + std::to_string(mine) +
                               " for request '" + s.continuation.request().custom_id + "', rank " +
                               std::to_string(s.home) + " token " + std::to_string(sample.sampled.token) +
                               ": the ranks' processors compute differently; use --dense follow");
    }
  } else {
    s.continuation.add(sample.sampled);
  }
  ++s.announced;
}

std::vector<Completion> Scheduler::finished() {
  last_batch_.clear();
  for (std::size_t i = 0; i < in_batch_.size(); ++i) {
    const auto rows = static_cast<std::size_t>(batch_.sequences[i].rows);
    in_batch_[i]->computed += batch_.sequences[i].rows;
    last_batch_.insert(last_batch_.end(), rows, in_batch_[i]);
  }
  batch_ = {};
  in_batch_.clear();
  std::vector<Completion> done;
  for (auto s = running_.begin(); s != running_.end();) {
    if (s->done() || s->computed >= kv_tokens(s->continuation.request())) release(*s);
    if (!s->done()) {
      ++s;
      continue;
    }
    if (s->home == domains_.self()) done.push_back(s->continuation.finish());
    s = running_.erase(s);
  }
  return done;
}

void Scheduler::release(Sequence& s) {
  if (std::exchange(s.released, true)) return;
  kv_.give_back(s.blocks);
  --at_home_[s.home];
}

}  // namespace coterie
