// A line of a requests file (OpenAI's batch format) to a request, or to what is wrong with it.
#pragma once

#include "runtime/request.hpp"
#include "runtime/tokenizer.hpp"

#include <cstdint>
#include <string_view>
#include <variant>

namespace coterie {

/// What the model of this job can take.
struct RequestRules {
  std::int64_t vocabulary = 0;           ///< token ids are below
  std::int64_t max_positions = 0;        ///< of a prompt and its continuation together
  const Tokenizer* tokenizer = nullptr;  ///< null: prompts are token ids, and there are no stop strings
  std::uint64_t seed = 0;                ///< of requests that name none
};

using RequestOrError = std::variant<Request, RequestError>;

/// Takes `custom_id`, `method` POST, `url` /v1/completions and `body`: the parameters of OpenAI's completions that a
/// batch can have, and of vLLM's extensions top_k, stop_token_ids, ignore_eos, include_stop_str_in_output,
/// return_token_ids and add_special_tokens, and HF's split_special_tokens (default true: a special token's name in the
/// prompt is text; false: it is the token). Other parameters may stand there with the value that changes nothing (`n`
/// 1, `stream` false, null). Whatever the bytes are, it returns: a wrong line is an answer, not an exception.
[[nodiscard]] RequestOrError parse_request(std::string_view line, std::int64_t number, const RequestRules& rules);

}  // namespace coterie
