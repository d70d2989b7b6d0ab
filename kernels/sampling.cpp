#include "kernels/sampling.hpp"

#include <algorithm>
#include <cmath>
#include <string>

namespace coterie {

Sampled to_sampled(const RowFinding& found, bool with_logprobs, std::vector<Candidate> top) {
  if (found.state != RowFinding::State::sound) {
    throw BrokenLogits(std::string("the model's logits are not numbers: ") +
                       (found.state == RowFinding::State::has_nan ? "NaN among them" : "no finite largest value"));
  }
  Sampled out{found.token, {}};
  if (!with_logprobs) return out;
  const double log_sum = found.largest + std::log(static_cast<double>(found.weights) / weight_one);
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };
  std::ranges::sort(top, likelier);
  out.logprobs.chosen = logprob(found.logit);
  for (const Candidate& c : top) out.logprobs.top.emplace_back(c.id, logprob(c.logit));
  return out;
}

}  // namespace coterie
