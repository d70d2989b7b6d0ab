#include "runtime/requests/continuation.hpp"

#include <algorithm>
#include <utility>

namespace coterie {

Continuation::Continuation(Request request, const Tokenizer* tokenizer, std::span<const std::int32_t> end_tokens)
    : end_tokens_(end_tokens.begin(), end_tokens.end()) {
  completion_.request = std::move(request);
  finished_ = completion_.request.max_tokens <= 0;
  if (tokenizer == nullptr) return;
  decoder_.emplace(*tokenizer, completion_.request.skip_special_tokens);
  // The prompt decides whether the first token is at the start of the text, and may end inside a character.
  for (const std::int32_t token : completion_.request.prompt) static_cast<void>(decoder_->add(token));
  static_cast<void>(decoder_->settle());
}

bool Continuation::ends(std::int32_t token) {
  const Request& r = completion_.request;
  const auto& stops = r.stop_token_ids;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    completion_.stop_reason = token;
    return true;
  }
  return !r.ignore_eos && std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
}

bool Continuation::cut_at_stop_string(std::size_t searched) {
  const Request& r = completion_.request;
  if (r.stop.empty()) return false;
  std::string& text = completion_.text;
  const std::size_t certain = text.size();
  text += decoder_->pending();
  std::size_t where = std::string::npos;
  const std::string* found = nullptr;
  for (const std::string& stop : r.stop) {
    // Only an occurrence that ends in new text is new.
    const std::size_t from = searched - std::min(searched, stop.size() - 1);
    const std::size_t at = text.find(stop, from);
    if (at < where) {
      where = at;
      found = &stop;
    }
  }
  if (found == nullptr) {
    text.resize(certain);
    return false;
  }
  text.resize(where + (r.include_stop_str_in_output ? found->size() : 0));
  completion_.stop_reason = *found;
  return true;
}

void Continuation::add(Sampled sampled) {
  const Request& r = completion_.request;
  completion_.tokens.push_back(sampled.token);
  if (r.sampling.logprobs >= 0) completion_.logprobs.push_back(std::move(sampled.logprobs));

  const bool ended = ends(sampled.token);
  finished_ = ended || static_cast<int>(completion_.tokens.size()) >= r.max_tokens;
  if (ended) completion_.finish_reason = FinishReason::stop;
  if (!decoder_) return;

  const std::size_t before = completion_.text.size();
  if (!ended || r.include_stop_str_in_output) completion_.text += decoder_->add(sampled.token);
  if (finished_) completion_.text += decoder_->finish();
  if (cut_at_stop_string(before)) {
    completion_.finish_reason = FinishReason::stop;
    finished_ = true;
  }
}

Completion Continuation::finish() {
  return std::move(completion_);
}

}  // namespace coterie
