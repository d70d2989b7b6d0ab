// The CPU's choice of tokens. Linear in the vocabulary on average: nothing is sorted but what is reported. Compiled
// without contraction, for the weights are the same to the last bit on every device.
#include "kernels/cpu_device.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>

namespace coterie {
namespace {

using Logits = std::span<const float>;
using Weights = std::span<std::int64_t>;

/// exp(x) for x <= 0 to about one unit in the last place; 0 below -87. Written so that a loop over it becomes vector
/// code, and, unlike the C library's, the same on every processor. Range reduction x = n ln 2 + r, |r| <= ln 2 / 2, and
/// the Taylor polynomial of degree 7 in r. The GPU's (cuda/sampling.cu) takes the same steps.
inline float exp_of_negative(float x) {
  constexpr float kLog2e = 1.44269504F, kLn2High = 0.693359375F, kLn2Low = -2.12194440e-4F;
  constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer that the low bits then hold
  const float shifted = x * kLog2e + kRounder;
  const float n = shifted - kRounder;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float p = 1.0F / 5040;
  p = p * r + 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const std::uint32_t exponent = std::bit_cast<std::uint32_t>(shifted) << 23;
  const auto below_range =
      static_cast<std::uint32_t>(std::bit_cast<std::int32_t>(x + 87.0F) >> 31);  // all ones or zero
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(p) + exponent) & ~below_range);
}

/// take(first id, weights) for pieces of the vocabulary in their order.
template <class Take>
void with_weights(Logits logits, float largest, float temperature, const Take& take) {
  std::array<float, 1024> exponentials;
  for (std::size_t first = 0; first < logits.size(); first += exponentials.size()) {
    const Logits some = logits.subspan(first, std::min(exponentials.size(), logits.size() - first));
    for (std::size_t i = 0; i < some.size(); ++i) {
      exponentials[i] = exp_of_negative((some[i] - largest) / temperature) * weight_one;
    }
    take(first, std::span<const float>(exponentials.data(), some.size()));
  }
}

std::int64_t sum_of(std::span<const std::int64_t> weights) {
  return std::accumulate(weights.begin(), weights.end(), std::int64_t{0});
}

/// The largest logit and the lowest id that has it, if all are numbers.
RowFinding likeliest(Logits logits) {
  std::array<float, 8> lanes;
  lanes.fill(-std::numeric_limits<float>::infinity());
  std::array<std::uint32_t, 8> nan_lanes{};
  std::size_t i = 0;
  const auto take = [&](std::size_t lane, float l) {
    lanes[lane] = l > lanes[lane] ? l : lanes[lane];
    nan_lanes[lane] |= l != l ? 1U : 0U;
  };
  for (; i + 8 <= logits.size(); i += 8) {
    for (std::size_t lane = 0; lane < 8; ++lane) take(lane, logits[i + lane]);
  }
  for (; i < logits.size(); ++i) take(0, logits[i]);
  RowFinding found;
  found.largest = *std::max_element(lanes.begin(), lanes.end());
  if (std::any_of(nan_lanes.begin(), nan_lanes.end(), [](std::uint32_t n) { return n != 0; })) {
    found.state = RowFinding::State::has_nan;
  } else if (!std::isfinite(found.largest)) {
    found.state = RowFinding::State::not_finite;
  } else {
    found.token = static_cast<std::int32_t>(std::find(logits.begin(), logits.end(), found.largest) - logits.begin());
  }
  return found;
}

/// The `count` likeliest tokens, the least likely first.
std::vector<Candidate> likeliest(Logits logits, std::size_t count) {
  std::vector<Candidate> best;  // a heap, the least likely on top
  count = std::min(count, logits.size());
  best.reserve(count);
  for (std::size_t i = 0; i < logits.size() && count > 0; ++i) {
    const Candidate c{static_cast<std::int32_t>(i), logits[i]};
    if (best.size() < count) {
      best.push_back(c);
      std::push_heap(best.begin(), best.end(), likelier);
    } else if (c.logit > best.front().logit) {  // of equals the lower id is there already
      std::pop_heap(best.begin(), best.end(), likelier);
      best.back() = c;
      std::push_heap(best.begin(), best.end(), likelier);
    }
  }
  return best;
}

/// The least likely of the fewest likeliest tokens whose weights add up to `mass` of `total`. Selection by halving:
/// each step sums the likelier half and drops one half, so that all steps together are linear.
Candidate nucleus_cut(Logits logits, Weights weights, std::int64_t total, std::int64_t mass) {
  // Tokens below this weight have less than total - mass in all: the cut is above them.
  const std::int64_t negligible = (total - mass) / static_cast<std::int64_t>(weights.size()) / 2;
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0 && weights[i] >= negligible) candidates.push_back({static_cast<std::int32_t>(i), logits[i]});
  }
  auto first = candidates.begin(), last = candidates.end();
  while (last - first > 1) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, likelier);
    std::int64_t half = 0;
    for (auto c = first; c != middle; ++c) half += weights[static_cast<std::size_t>(c->id)];
    if (half >= mass) {
      last = middle;
    } else {
      mass -= half;
      first = middle;
    }
  }
  return *first;
}

void drop_less_likely(Logits logits, Weights weights, const Candidate& cut) {
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (likelier(cut, {static_cast<std::int32_t>(i), logits[i]})) weights[i] = 0;
  }
}

std::int32_t draw(Logits logits, const RowSampling& wanted, float largest) {
  const auto memory = std::make_unique_for_overwrite<std::int64_t[]>(logits.size());
  const Weights weights(memory.get(), logits.size());
  with_weights(logits, largest, wanted.temperature, [&](std::size_t first, std::span<const float> some) {
    for (std::size_t i = 0; i < some.size(); ++i) weights[first + i] = static_cast<std::int64_t>(some[i]);
  });
  if (wanted.top_k > 0 && static_cast<std::size_t>(wanted.top_k) < logits.size()) {
    drop_less_likely(logits, weights, likeliest(logits, static_cast<std::size_t>(wanted.top_k)).front());
  }
  std::int64_t total = sum_of(weights);
  if (wanted.top_p < 1) {
    const auto mass = static_cast<std::int64_t>(std::ceil(wanted.top_p * static_cast<double>(total)));
    drop_less_likely(logits, weights, nucleus_cut(logits, weights, total, std::clamp<std::int64_t>(mass, 1, total)));
    total = sum_of(weights);
  }
  std::int64_t left = std::min(static_cast<std::int64_t>(wanted.share * static_cast<double>(total)), total - 1);
  std::int32_t token = 0;
  while (left >= weights[static_cast<std::size_t>(token)]) left -= weights[static_cast<std::size_t>(token++)];
  return token;
}

/// Also the likeliest tokens that are to be reported.
RowFinding look_at(Logits logits, const RowSampling& wanted, std::vector<Candidate>& top) {
  RowFinding found = likeliest(logits);
  if (found.state != RowFinding::State::sound) return found;
  if (wanted.given >= 0) {
    found.token = wanted.given;
  } else if (wanted.temperature > 0) {
    found.token = draw(logits, wanted, found.largest);
  }
  found.logit = logits[static_cast<std::size_t>(found.token)];
  if (wanted.logprobs >= 0) {
    with_weights(logits, found.largest, 1, [&](std::size_t, std::span<const float> some) {
      for (const float weight : some) found.weights += static_cast<std::int64_t>(weight);
    });
    top = likeliest(logits, static_cast<std::size_t>(wanted.logprobs));
  }
  return found;
}

}  // namespace

std::vector<Sampled> CpuDevice::sample(const Tensor& logits, std::span<const RowSampling> rows) {
  require_shape(logits, logits.rows, logits.cols, "sample: the logits");
  require_sampling(logits, rows);
  std::vector<RowFinding> found(rows.size());
  std::vector<std::vector<Candidate>> top(rows.size());
  const auto count = static_cast<std::int64_t>(rows.size());
  constexpr std::int64_t operations = 100;  // of a token, about
  parallel_for(threads_for(count * logits.cols * operations), count, [&](std::int64_t i) {
    const auto at = static_cast<std::size_t>(i);
    const Logits row(f32_row(logits, rows[at].row), static_cast<std::size_t>(logits.cols));
    found[at] = look_at(row, rows[at], top[at]);
  });
  std::vector<Sampled> out;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    out.push_back(to_sampled(found[i], rows[i].logprobs >= 0, std::move(top[i])));
  }
  return out;
}

}  // namespace coterie
