#include "runtime/requests/sampler.hpp"

#include "runtime/requests/philox.hpp"

namespace coterie {
namespace {

/// Uniform in [0, 1), 53 bits.
double uniform(std::uint64_t seed, std::uint64_t request, std::int64_t position) {
  const auto low = [](std::uint64_t x) { return static_cast<std::uint32_t>(x); };
  const auto high = [](std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); };
  const auto where = static_cast<std::uint64_t>(position);
  const PhiloxCounter words = philox({low(where), high(where), low(request), high(request)}, {low(seed), high(seed)});
  const std::uint64_t bits = (static_cast<std::uint64_t>(words[0]) << 32 | words[1]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

}  // namespace

std::uint64_t request_key(std::string_view custom_id) noexcept {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char c : custom_id) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

RowSampling next_token(const SamplingOptions& options, std::uint64_t request_key, std::int64_t position) {
  RowSampling out{
      .temperature = options.temperature, .top_k = options.top_k, .top_p = options.top_p, .logprobs = options.logprobs};
  if (options.temperature > 0) out.share = uniform(options.seed, request_key, position);
  return out;
}

RowSampling given_token(const SamplingOptions& options, std::int32_t token) {
  return {.logprobs = options.logprobs, .given = token};
}

}  // namespace coterie
