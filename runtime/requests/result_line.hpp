// An answer, or an error, as a line of a results file: OpenAI's batch output format.
#pragma once

#include "runtime/requests/continuation.hpp"
#include "runtime/requests/request.hpp"
#include "runtime/text/tokenizer.hpp"

#include <string>
#include <string_view>

namespace coterie {

/// One JSON object without the end of line: `id`, `custom_id`, `response` (status 200 and a `text_completion`, or a
/// `chat.completion` for a conversation), `error` null. A function of its arguments alone: ids are hashes of the
/// custom_id, `created` is 0. `token_ids` and `prompt_token_ids` are there when asked for, and always without a
/// tokenizer; the text is empty then.
///
/// `logprobs` has `tokens`, `token_logprobs`, `top_logprobs` and `text_offset` (characters from the start of `text`),
/// those of the prompt first when it is echoed. A byte of a longer character is named "bytes:\xe2", an id without text
/// "token_id:7". In a conversation `logprobs` has `content`: of each token `token`, `logprob`, `bytes` and
/// `top_logprobs`.
[[nodiscard]] std::string completion_line(const Completion& completion, const Tokenizer* tokenizer,
                                          std::string_view model);

/// `response` null, `error` {code, message, line}; `custom_id` null where the request has none.
[[nodiscard]] std::string error_line(const RequestError& error);

}  // namespace coterie
