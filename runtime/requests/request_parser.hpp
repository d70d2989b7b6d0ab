// A line of a requests file (OpenAI's batch format) to a request, or to what is wrong with it.
#pragma once

#include "runtime/requests/chat_renderer.hpp"
#include "runtime/requests/request.hpp"
#include "runtime/text/tokenizer.hpp"

#include <cstdint>
#include <functional>
#include <limits>
#include <string_view>
#include <variant>

namespace coterie {

/// What the model of this job can take.
struct RequestRules {
  std::int64_t vocabulary = 0;           ///< token ids are below
  std::int64_t max_positions = 0;        ///< of a prompt and its continuation together
  const Tokenizer* tokenizer = nullptr;  ///< null: prompts are token ids, and there are no stop strings
  std::uint64_t seed = 0;                ///< of requests that name none
  /// Positions that a rank's KV memory holds. A conversation that names no limit may use what is left of them.
  std::int64_t kv_tokens = std::numeric_limits<std::int64_t>::max();
  /// A line's conversation as a prompt (ChatRenderer::render); throws InputError. Asked for conversations only, after
  /// their fields were found right.
  std::function<ChatPrompt(std::string_view line)> render_chat = nullptr;
};

using RequestOrError = std::variant<Request, RequestError>;

/// Takes `custom_id`, `method` POST, `url` and `body`: for /v1/completions the parameters of OpenAI's completions that
/// a batch can have, and of vLLM's extensions top_k, stop_token_ids, ignore_eos, include_stop_str_in_output,
/// return_token_ids, skip_special_tokens and add_special_tokens, and HF's split_special_tokens (default true: a special
/// token's name in the prompt is text; false: it is the token). For /v1/chat/completions the same without echo and
/// add_special_tokens, with `messages` and what belongs to them (chat_request.hpp) for the prompt,
/// max_completion_tokens, and logprobs as a chat has them; split_special_tokens is about the texts in the request, the
/// template's own special tokens are tokens. Other parameters may stand there with the value that changes nothing (`n`
/// 1, `stream` false, null). Whatever the bytes are, it returns: a wrong line is an answer, not an exception.
[[nodiscard]] RequestOrError parse_request(std::string_view line, std::int64_t number, const RequestRules& rules);

}  // namespace coterie
