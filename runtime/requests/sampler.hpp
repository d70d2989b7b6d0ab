// Choosing the next token from the model's logits, and the log-probabilities that a request may ask for.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

namespace coterie {

struct SamplingOptions {
  float temperature = 1;   ///< 0: greedy, ties to the lowest id
  int top_k = 0;           ///< only the top_k likeliest tokens; 0: all
  float top_p = 1;         ///< only the likeliest tokens that together have this probability, at least one
  std::uint64_t seed = 0;  ///< of the request, or of the job where the request has none
  int logprobs = -1;       ///< how many alternatives to report with each token; -1: no log-probabilities at all
};

/// Log-probabilities at one position, of the model's own distribution: before temperature, top-k and top-p.
struct Logprobs {
  float chosen = 0;                                 ///< of the token that stands there
  std::vector<std::pair<std::int32_t, float>> top;  ///< the likeliest tokens, falling; ties: the lower id first
};

struct Sampled {
  std::int32_t token = 0;
  Logprobs logprobs;  ///< filled when options.logprobs >= 0
};

/// The model's logits hold a NaN or no finite largest value.
class BrokenLogits : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The request's share of the random numbers: a hash of its custom_id, the same on every machine.
[[nodiscard]] std::uint64_t request_key(std::string_view custom_id) noexcept;

/// Temperature, then top-k, then top-p, then one draw. The draw depends on (options.seed, request_key, position) alone,
/// so a request's text is the same whatever else is in the batch and wherever it runs. `position` is that of the new
/// token in its sequence. `logits` is (vocabulary), -infinity allowed. O(vocabulary) on average: nothing is sorted but
/// what is reported. Throws BrokenLogits.
[[nodiscard]] Sampled sample(std::span<const float> logits, const SamplingOptions& options, std::uint64_t request_key,
                             std::int64_t position);

/// What `sample` reports, for a token that is given: those of an echoed prompt. Throws as `sample` does.
[[nodiscard]] Logprobs logprobs_of(std::span<const float> logits, std::int32_t token, int top);

}  // namespace coterie
