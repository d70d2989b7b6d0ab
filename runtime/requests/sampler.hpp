// What a request asks of the model's logits, and its random numbers.
#pragma once

#include "kernels/sampling.hpp"

#include <cstdint>
#include <string_view>

namespace coterie {

struct SamplingOptions {
  float temperature = 1;   ///< 0: greedy, ties to the lowest id
  int top_k = 0;           ///< only the top_k likeliest tokens; 0: all
  float top_p = 1;         ///< only the likeliest tokens that together have this probability, at least one
  std::uint64_t seed = 0;  ///< of the request, or of the job where the request has none
  int logprobs = -1;       ///< how many alternatives to report with each token; -1: no log-probabilities at all
};

/// The request's share of the random numbers: a hash of its custom_id, the same on every machine.
[[nodiscard]] std::uint64_t request_key(std::string_view custom_id) noexcept;

/// The next token of a sequence, which stands at `position` of it. The draw depends on (options.seed, request_key,
/// position) alone, so a request's text is the same whatever else is in the batch and wherever it runs. The row is the
/// caller's to set.
[[nodiscard]] RowSampling next_token(const SamplingOptions& options, std::uint64_t request_key, std::int64_t position);

/// What is reported of a token that is given: those of an echoed prompt.
[[nodiscard]] RowSampling given_token(const SamplingOptions& options, std::int32_t token);

}  // namespace coterie
