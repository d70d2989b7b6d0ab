#include "runtime/requests/sampler.hpp"

#include "runtime/requests/philox.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>

namespace coterie {
namespace {

using Logits = std::span<const float>;

struct Candidate {
  float logit = 0;
  std::int32_t id = 0;
};

/// The order of "likelier": total, so that every cut of the vocabulary is well defined.
bool likelier(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/// exp(x) for x <= 0 to about one unit in the last place; 0 below -87. Written so that a loop over it becomes vector
/// code, and, unlike the C library's, the same on every processor. Range reduction x = n ln 2 + r, |r| <= ln 2 / 2, and
/// the Taylor polynomial of degree 7 in r.
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

constexpr std::size_t kBlock = 1024;

/// Sums of blocks of kBlock, each in eight lanes that one vector holds.
std::vector<double> block_sums(std::span<const float> values) {
  std::vector<double> sums;
  sums.reserve(values.size() / kBlock + 1);
  for (std::size_t first = 0; first < values.size(); first += kBlock) {
    const auto block = values.subspan(first, std::min(kBlock, values.size() - first));
    std::array<float, 8> lanes{};
    std::size_t i = 0;
    for (; i + 8 <= block.size(); i += 8) {
      for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] += block[i + lane];
    }
    double sum = 0;
    for (const float lane : lanes) sum += lane;
    for (; i < block.size(); ++i) sum += block[i];
    sums.push_back(sum);
  }
  return sums;
}

double sum_of(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum;
}

/// The largest logit and the lowest id that has it.
Candidate likeliest(Logits logits) {
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
  const float largest = *std::max_element(lanes.begin(), lanes.end());
  const bool broken = std::any_of(nan_lanes.begin(), nan_lanes.end(), [](std::uint32_t n) { return n != 0; });
  if (broken || !std::isfinite(largest)) {
    throw BrokenLogits("the model's logits are not numbers: " +
                       std::string(broken ? "NaN among them" : "no finite largest value"));
  }
  return {largest, static_cast<std::int32_t>(std::find(logits.begin(), logits.end(), largest) - logits.begin())};
}

/// The `count` likeliest tokens, falling.
std::vector<Candidate> likeliest(Logits logits, std::size_t count) {
  std::vector<Candidate> best;  // a heap, the least likely on top
  count = std::min(count, logits.size());
  best.reserve(count);
  for (std::size_t i = 0; i < logits.size() && count > 0; ++i) {
    const Candidate c{logits[i], static_cast<std::int32_t>(i)};
    if (best.size() < count) {
      best.push_back(c);
      std::push_heap(best.begin(), best.end(), likelier);
    } else if (c.logit > best.front().logit) {  // of equals the lower id is there already
      std::pop_heap(best.begin(), best.end(), likelier);
      best.back() = c;
      std::push_heap(best.begin(), best.end(), likelier);
    }
  }
  std::sort_heap(best.begin(), best.end(), likelier);
  return best;
}

/// The least likely of the fewest likeliest tokens whose weights add up to `mass`. Selection by halving: each step sums
/// the likelier half and drops one half, so that all steps together are linear.
Candidate nucleus_cut(Logits logits, std::span<const float> weights, double total, double mass) {
  // Tokens below this weight have less than total - mass in all: the cut is above them.
  const auto negligible = static_cast<float>(0.5 * (total - mass) / static_cast<double>(weights.size()));
  std::vector<Candidate> candidates;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] > 0 && weights[i] >= negligible) candidates.push_back({logits[i], static_cast<std::int32_t>(i)});
  }
  auto first = candidates.begin(), last = candidates.end();
  while (last - first > 1) {
    const auto middle = first + (last - first) / 2;
    std::nth_element(first, middle, last, likelier);
    double half = 0;
    for (auto c = first; c != middle; ++c) half += weights[c->id];
    if (half >= mass) {
      last = middle;
    } else {
      mass -= half;
      first = middle;
    }
  }
  return *first;
}

void drop_less_likely(Logits logits, std::span<float> weights, const Candidate& cut) {
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const bool kept = logits[i] > cut.logit || (logits[i] == cut.logit && static_cast<std::int32_t>(i) <= cut.id);
    weights[i] = kept ? weights[i] : 0.0F;
  }
}

/// Uniform in [0, 1), 53 bits.
double uniform(std::uint64_t seed, std::uint64_t request, std::int64_t position) {
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  const auto where = static_cast<std::uint64_t>(position);
  const PhiloxCounter words = philox({low(where), high(where), low(request), high(request)}, {low(seed), high(seed)});
  const std::uint64_t bits = (static_cast<std::uint64_t>(words[0]) << 32 | words[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

/// The token at which the running sum of the weights passes `share` of their total. Never one of weight 0.
std::int32_t draw(std::span<const float> weights, double share) {
  const std::vector<double> sums = block_sums(weights);
  double target = share * sum_of(sums);
  std::int32_t last_kept = -1;
  for (std::size_t b = 0; b < sums.size(); ++b) {
    if (sums[b] <= 0) continue;
    const bool passes = target < sums[b];
    const std::size_t end = std::min((b + 1) * kBlock, weights.size());
    if (passes || b + 1 == sums.size() || last_kept < 0) {
      double running = 0;
      for (std::size_t i = b * kBlock; i < end; ++i) {
        if (weights[i] <= 0) continue;
        running += weights[i];
        last_kept = static_cast<std::int32_t>(i);
        if (passes && target < running) return last_kept;
      }
      if (passes) return last_kept;  // rounding: the block's lanes were summed in another order
    }
    target -= sums[b];
  }
  return last_kept;
}

/// log of the sum of e^logit.
double log_sum_exp(Logits logits, float largest) {
  const auto weights = std::make_unique_for_overwrite<float[]>(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) weights[i] = exp_of_negative(logits[i] - largest);
  return largest + std::log(sum_of(block_sums({weights.get(), logits.size()})));
}

std::int32_t choose(Logits logits, const SamplingOptions& options, const Candidate& best, double share) {
  const auto memory = std::make_unique_for_overwrite<float[]>(logits.size());
  const std::span<float> weights(memory.get(), logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    weights[i] = exp_of_negative((logits[i] - best.logit) / options.temperature);
  }
  if (options.top_k > 0 && static_cast<std::size_t>(options.top_k) < logits.size()) {
    drop_less_likely(logits, weights, likeliest(logits, options.top_k).back());
  }
  if (options.top_p < 1) {
    const double total = sum_of(block_sums(weights));
    drop_less_likely(logits, weights, nucleus_cut(logits, weights, total, options.top_p * total));
  }
  return draw(weights, share);
}

Logprobs report(Logits logits, std::int32_t token, int top, float largest) {
  const double log_sum = log_sum_exp(logits, largest);
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };
  Logprobs out{logprob(logits[token]), {}};
  for (const Candidate& c : likeliest(logits, std::max(top, 0))) out.top.emplace_back(c.id, logprob(c.logit));
  return out;
}

}  // namespace

std::uint64_t request_key(std::string_view custom_id) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : custom_id) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

Sampled sample(Logits logits, const SamplingOptions& options, std::uint64_t request_key, std::int64_t position) {
  const Candidate best = likeliest(logits);
  Sampled out{best.id, {}};
  if (options.temperature > 0) {
    out.token = choose(logits, options, best, uniform(options.seed, request_key, position));
  }
  if (options.logprobs >= 0) out.logprobs = report(logits, out.token, options.logprobs, best.logit);
  return out;
}

Logprobs logprobs_of(Logits logits, std::int32_t token, int top) {
  return report(logits, token, top, likeliest(logits).logit);
}

}  // namespace coterie
