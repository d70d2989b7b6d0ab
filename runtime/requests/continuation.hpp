// The growing answer to one request: its tokens and text, and what ends it.
#pragma once

#include "runtime/requests/request.hpp"
#include "runtime/requests/sampler.hpp"
#include "runtime/text/text_decoder.hpp"
#include "runtime/text/tokenizer.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

namespace coterie {

enum class FinishReason { stop, length };

/// Which stop token or stop string of the request ended it; neither for the model's own end of sequence, or its length.
using StopReason = std::variant<std::monostate, std::int32_t, std::string>;

/// A request, answered.
struct Completion {
  Request request;
  std::vector<std::int32_t> tokens;  ///< generated; a stop token or end of sequence included
  std::string text;                  ///< of `tokens`, up to the stop string; empty without a tokenizer
  FinishReason finish_reason = FinishReason::length;
  StopReason stop_reason;
  std::vector<Logprobs>
      prompt_logprobs;             ///< (prompt - 1): of its second token and on, when echo and logprobs are asked for
  std::vector<Logprobs> logprobs;  ///< (tokens), when logprobs are asked for
};

/// Takes the tokens of a request as they are sampled and says when it is done: end of sequence, a stop token, a stop
/// string, or max_tokens. A stop string counts as soon as its last character is there; where several stand in the text,
/// the one that begins first cuts it. The prompt is not searched.
class Continuation {
 public:
  /// `end_tokens` are the model's ends of a sequence. `tokenizer` may be null (then there are no stop strings) and must
  /// outlive this object.
  Continuation(Request request, const Tokenizer* tokenizer, std::span<const std::int32_t> end_tokens);

  [[nodiscard]] const Request& request() const noexcept { return completion_.request; }
  /// Generated so far.
  [[nodiscard]] std::span<const std::int32_t> tokens() const noexcept { return completion_.tokens; }
  /// At once for max_tokens 0.
  [[nodiscard]] bool finished() const noexcept { return finished_; }

  /// Of the prompt's second token and on, in order.
  void add_prompt_logprobs(Logprobs logprobs) { completion_.prompt_logprobs.push_back(std::move(logprobs)); }
  /// The next token; not to be called when finished.
  void add(Sampled sampled);
  /// Leaves this object empty.
  [[nodiscard]] Completion finish();

 private:
  [[nodiscard]] bool ends(std::int32_t token);
  [[nodiscard]] bool cut_at_stop_string(std::size_t searched);

  std::vector<std::int32_t> end_tokens_;
  std::optional<TextDecoder> decoder_;
  Completion completion_;
  bool finished_ = false;
};

}  // namespace coterie
