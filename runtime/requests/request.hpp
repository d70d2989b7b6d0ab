// A request as the engine sees it, and as it travels between ranks.
#pragma once

#include "runtime/requests/sampler.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace coterie {

struct Request {
  std::string custom_id;
  bool chat = false;                 ///< a conversation, answered as such
  std::int64_t line = 0;             ///< of the input file, from 1
  std::vector<std::int32_t> prompt;  ///< token ids, at least one, all inside the vocabulary
  std::string prompt_text;           ///< as the user wrote it; empty for a prompt of token ids, and without echo
  int max_tokens = 16;               ///< 0 only with echo
  SamplingOptions sampling;
  std::vector<std::string> stop;  ///< none of them empty
  std::vector<std::int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool echo = false;  ///< the text and log-probabilities of the prompt come first in the result
  bool return_token_ids = false;
  bool include_stop_str_in_output = false;  ///< keep the stop string or stop token in the text
  bool skip_special_tokens = true;          ///< generated special tokens are no text; otherwise their names are
};

/// Why a line of the input is not a request, or why a request can't be served.
struct RequestError {
  std::string custom_id;  ///< empty where the line has none
  std::int64_t line = 0;
  std::string code;     ///< for programs: "invalid_json_line", "unsupported_parameter", ...
  std::string message;  ///< for people: names the line, the field, what was found and what was expected
};

/// Appends a request to a message for another rank of the same program.
void append(std::vector<std::byte>& message, const Request& request);
/// Takes the first request off `message`. Throws std::runtime_error when the bytes end too early.
[[nodiscard]] Request take_request(std::span<const std::byte>& message);

}  // namespace coterie
