#include "runtime/scheduler.hpp"

#include <algorithm>

namespace coterie {

std::int64_t Scheduler::Sequence::prompt_size() const {
  return static_cast<std::int64_t>(continuation.request().prompt.size());
}

std::int32_t Scheduler::Sequence::token(std::int64_t position) const {
  const std::int64_t prompt = prompt_size();
  return position < prompt ? continuation.request().prompt[position] : continuation.tokens()[position - prompt];
}

Scheduler::Scheduler(KvPool& kv, const Tokenizer* tokenizer, std::vector<std::int32_t> end_tokens,
                     SchedulerOptions options)
    : kv_(kv), tokenizer_(tokenizer), end_tokens_(std::move(end_tokens)), options_(options) {
  options_.max_batch_size =
      static_cast<int>(std::min<std::int64_t>(options_.max_batch_size, options_.max_batch_tokens));
}

std::int64_t Scheduler::kv_tokens(const Request& request) {
  // The last token that is generated is never read.
  return static_cast<std::int64_t>(request.prompt.size()) + std::max(0, request.max_tokens - 1);
}

void Scheduler::admit() {
  while (!waiting_.empty() && static_cast<int>(running_.size()) < options_.max_batch_size) {
    auto blocks = kv_.take(kv_tokens(waiting_.front()));
    if (!blocks) return;
    const std::uint64_t key = request_key(waiting_.front().custom_id);
    running_.push_back({Continuation(std::move(waiting_.front()), tokenizer_, end_tokens_), std::move(*blocks), key});
    waiting_.pop_front();
  }
}

const Batch& Scheduler::next() {
  admit();
  batch_ = {};
  in_batch_.clear();
  for (Sequence& s : running_) {
    if (s.computed >= s.prompt_size()) add_rows(s, 1);
  }
  for (Sequence& s : running_) {
    const std::int64_t left = s.prompt_size() - s.computed;
    const std::int64_t rows = std::min(left, options_.max_batch_tokens - batch_.rows());
    if (left > 0 && rows > 0) add_rows(s, rows);
  }
  return batch_;
}

bool Scheduler::wants_prompt_logits(const Sequence& sequence) const {
  const Request& request = sequence.continuation.request();
  return observer_ || (request.echo && request.sampling.logprobs >= 0);
}

void Scheduler::add_rows(Sequence& s, std::int64_t rows) {
  const auto first_row = batch_.rows();
  batch_.sequences.push_back({first_row, rows, s.computed, s.blocks});
  batch_.requests.push_back(s.continuation.request().line);
  batch_.prompt_rows += s.computed < s.prompt_size() ? rows : 0;
  const bool all = wants_prompt_logits(s);
  for (std::int64_t p = s.computed; p < s.computed + rows; ++p) {
    if (all || p + 1 >= s.prompt_size()) batch_.sampled.push_back(static_cast<std::int32_t>(batch_.rows()));
    batch_.tokens.push_back(s.token(p));
    batch_.positions.push_back(p);
  }
  in_batch_.push_back(&s);
}

std::vector<Completion> Scheduler::accept(std::span<const float> logits) {
  const std::size_t vocabulary = batch_.sampled.empty() ? 0 : logits.size() / batch_.sampled.size();
  std::size_t next_sampled = 0;
  for (std::size_t i = 0; i < in_batch_.size(); ++i) {
    Sequence& s = *in_batch_[i];
    const std::int64_t end_row = batch_.sequences[i].first_row + batch_.sequences[i].rows;
    for (; next_sampled < batch_.sampled.size() && batch_.sampled[next_sampled] < end_row; ++next_sampled) {
      take_logits(s, batch_.positions[batch_.sampled[next_sampled]],
                  logits.subspan(next_sampled * vocabulary, vocabulary));
    }
    s.computed += batch_.sequences[i].rows;
  }

  std::vector<Completion> done;
  for (auto s = running_.begin(); s != running_.end();) {
    if (s->continuation.finished() && s->computed >= s->prompt_size()) {
      kv_.give_back(s->blocks);
      done.push_back(s->continuation.finish());
      s = running_.erase(s);
    } else {
      ++s;
    }
  }
  return done;
}

void Scheduler::take_logits(Sequence& s, std::int64_t position, std::span<const float> logits) {
  const Request& request = s.continuation.request();
  if (position < s.prompt_size()) {
    if (observer_) observer_(request, position, logits);
    if (request.echo && request.sampling.logprobs >= 0 && position + 1 < s.prompt_size()) {
      s.continuation.add_prompt_logprobs(logprobs_of(logits, request.prompt[position + 1], request.sampling.logprobs));
    }
  }
  if (position + 1 >= s.prompt_size() && !s.continuation.finished()) {
    s.continuation.add(sample(logits, request.sampling, s.key, position + 1));
  }
}

}  // namespace coterie
