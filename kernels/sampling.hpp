// Choosing tokens from a model's logits: what is asked of a row of them, and what comes of it.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace coterie {

/// What is wanted of one row: temperature, then top-k, then top-p, then one draw.
///
/// A token's weight is e^((logit - largest) / temperature), in units of 2^-40 and cut to a whole number. Whole numbers
/// have the same sum in any order, so that every device takes the same token of the same logits.
struct RowSampling {
  std::int32_t row = 0;     ///< of the logits
  float temperature = 1;    ///< 0: greedy, ties to the lowest id
  int top_k = 0;            ///< only the top_k likeliest tokens, of equals those with the lower ids; 0: all
  float top_p = 1;          ///< only the likeliest tokens that together have this share of the weights, at least one
  double share = 0;         ///< in [0, 1): the token is where the sum of the weights, by id, passes this share of all
  int logprobs = -1;        ///< how many alternatives to report; -1: no log-probabilities at all
  std::int32_t given = -1;  ///< a token that stands there already, which is only reported; -1: one is chosen
};

/// Log-probabilities at one position, of the model's own distribution: before temperature, top-k and top-p.
struct Logprobs {
  float chosen = 0;                                 ///< of the token that stands there
  std::vector<std::pair<std::int32_t, float>> top;  ///< the likeliest tokens, falling; ties: the lower id first
};

struct Sampled {
  std::int32_t token = 0;
  Logprobs logprobs;  ///< filled when log-probabilities are asked for
};

/// The model's logits hold a NaN or no finite largest value.
class BrokenLogits : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr float weight_one = 0x1p40F;                               ///< the largest logit's weight
constexpr std::int64_t largest_vocabulary = std::int64_t{1} << 22;  ///< whose weights' sum is a 64-bit number

/// What a device finds in a row.
struct RowFinding {
  enum class State : std::int32_t { sound, has_nan, not_finite };
  State state = State::sound;
  std::int32_t token = 0;
  float logit = 0;  ///< the token's
  float largest = 0;
  std::int64_t weights = 0;  ///< the sum of all tokens' at temperature 1, where log-probabilities are asked for
};
/// One of the likeliest tokens.
struct Candidate {
  std::int32_t id = 0;
  float logit = 0;
};

/// The order of "likelier": total, so that every cut of the vocabulary is well defined.
[[nodiscard]] inline bool likelier(const Candidate& a, const Candidate& b) noexcept {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}
/// What is reported of it; `top` in any order. Throws BrokenLogits.
[[nodiscard]] Sampled to_sampled(const RowFinding& found, bool with_logprobs, std::vector<Candidate> top);

}  // namespace coterie
