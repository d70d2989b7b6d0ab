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
        {Continuation(std::move(waiting_.front()), tokenizer_, end_tokens_), std::move(*blocks), key, home, home});
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
    if (s.computed < s.prompt_size()) continue;
    add_rows(s, 1);
    --room[s.home];
  }
  for (Sequence& s : running_) {
    const std::int64_t rows = std::min(s.prompt_size() - s.computed, room[s.home]);
    if (rows <= 0) continue;
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
  const bool prompt = s.computed < s.prompt_size();
  const bool all = wants_prompt_logits(s);
  const auto index = static_cast<std::int32_t>(batch_.sequences.size());
  batch_.sequences.push_back({s.continuation.request().line, s.home, s.at, prompt, options_.replicate && !prompt,
                              batch_.rows(), static_cast<std::int32_t>(rows), s.computed,
                              std::max(s.prompt_size(), s.computed + 1), s.blocks});
  for (std::int64_t p = s.computed; p < s.computed + rows; ++p) {
    batch_.tokens.push_back(s.token(p));
    batch_.sequence.push_back(index);
    batch_.sampled.push_back(all || p + 1 >= s.prompt_size() ? 1 : 0);
  }
  in_batch_.push_back(&s);
}

std::optional<Sampled> Scheduler::sample(std::int32_t row, std::span<const float> logits) {
  Sequence& s = *in_batch_[batch_.sequence[row]];
  const Request& request = s.continuation.request();
  const std::int64_t position = batch_.position(row);
  if (position < s.prompt_size()) {
    if (observer_) observer_(request, position, logits);
    if (request.echo && request.sampling.logprobs >= 0 && position + 1 < s.prompt_size()) {
      s.continuation.add_prompt_logprobs(logprobs_of(logits, request.prompt[position + 1], request.sampling.logprobs));
    }
  }
  if (position + 1 < s.prompt_size() || s.continuation.finished()) return std::nullopt;
  return coterie::sample(logits, request.sampling, s.key, position + 1);
}

void Scheduler::accept(int rank, const RowSample& sample) {
  Sequence& s = *in_batch_[batch_.sequence[sample.row]];
  s.continuation.add(sample.sampled);
  s.at = rank;
}

std::vector<Completion> Scheduler::finished() {
  for (std::size_t i = 0; i < in_batch_.size(); ++i) in_batch_[i]->computed += batch_.sequences[i].rows;
  batch_ = {};
  in_batch_.clear();
  std::vector<Completion> done;
  for (auto s = running_.begin(); s != running_.end();) {
    if (!s->continuation.finished() || s->computed < s->prompt_size()) {
      ++s;
      continue;
    }
    kv_.give_back(s->blocks);
    --at_home_[s->home];
    if (s->home == domains_.self()) done.push_back(s->continuation.finish());
    s = running_.erase(s);
  }
  return done;
}

}  // namespace coterie
