// A GPU's choice of tokens: a block a row, in a few passes over its logits. Cuts of the vocabulary are found by radix
// selection, the token by narrowing down where a sum is passed. All sums are of whole numbers, so that it finds what
// the CPU finds (kernels/sampling.hpp).
#include "kernels/cuda/cuda_device.hpp"
#include "kernels/require.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace coterie {
namespace {

constexpr unsigned sample_threads = 1024;
constexpr int warps = sample_threads / 32;
static_assert(warps == 32);

/// A row of logits.
template <class T>
struct Row {
  const T* logits;
  int size;
  [[nodiscard]] __device__ float at(int id) const { return to_float(logits[id]); }
};

/// Whole numbers in the order of the logits; NaN, above all others, is 2^32 - 1.
__device__ unsigned key_of(float logit) {
  if (logit != logit) return 0xffffffffU;
  const unsigned bits = logit == 0 ? 0 : __float_as_uint(logit);  // of either sign
  return bits ^ ((bits >> 31) != 0 ? 0xffffffffU : 0x80000000U);
}
__device__ float logit_of(unsigned key) {
  return __uint_as_float(key ^ ((key >> 31) != 0 ? 0x80000000U : 0xffffffffU));
}

/// The CPU's, step by step.
__device__ float exp_of_negative(float x) {
  constexpr float log2e = 1.44269504F, ln2_high = 0.693359375F, ln2_low = -2.12194440e-4F, rounder = 12582912.0F;
  constexpr float coefficients[] = {1.0F / 720, 1.0F / 120, 1.0F / 24, 1.0F / 6, 0.5F, 1.0F, 1.0F};
  const float shifted = __fadd_rn(__fmul_rn(x, log2e), rounder);
  const float n = __fadd_rn(shifted, -rounder);
  const float r = __fadd_rn(__fadd_rn(x, -__fmul_rn(n, ln2_high)), -__fmul_rn(n, ln2_low));
  float p = 1.0F / 5040;
  for (const float coefficient : coefficients) p = __fadd_rn(__fmul_rn(p, r), coefficient);
  if (__fadd_rn(x, 87.0F) < 0) return 0;
  return __uint_as_float(__float_as_uint(p) + (__float_as_uint(shifted) << 23));
}

struct Weighing {
  float largest;
  float temperature;
  [[nodiscard]] __device__ std::int64_t operator()(float logit) const {
    return static_cast<std::int64_t>(exp_of_negative((logit - largest) / temperature) * weight_one);
  }
};
struct Counting {
  [[nodiscard]] __device__ std::int64_t operator()(float) const { return 1; }
};

/// The tokens up to one in the order of likelier().
struct Cut {
  unsigned key = 0;
  int id = INT32_MAX;
  [[nodiscard]] __device__ bool keeps(int i, unsigned its) const { return its > key || (its == key && i <= id); }
};

/// Sums over the block, to each thread.
__device__ std::int64_t block_total(std::int64_t value) {
  __shared__ std::int64_t sums[warps];
  for (unsigned half = 16; half > 0; half /= 2) value += __shfl_xor_sync(0xffffffffU, value, half);
  __syncthreads();  // the last sums are read
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  std::int64_t total = 0;
  for (const std::int64_t sum : sums) total += sum;
  return total;
}
/// Of the threads before this one.
__device__ std::int64_t sum_before(std::int64_t value) {
  __shared__ std::int64_t sums[warps];
  std::int64_t through = value;
  for (unsigned distance = 1; distance < 32; distance *= 2) {
    const std::int64_t other = __shfl_up_sync(0xffffffffU, through, distance);
    if (threadIdx.x % 32 >= distance) through += other;
  }
  __syncthreads();  // the last sums are read
  if (threadIdx.x % 32 == 31) sums[threadIdx.x / 32] = through;
  __syncthreads();
  std::int64_t before = through - value;
  for (unsigned warp = 0; warp < threadIdx.x / 32; ++warp) before += sums[warp];
  return before;
}

/// Of the measures of all tokens that `cut` keeps.
template <class T, class Measure>
__device__ std::int64_t sum_of(const Row<T>& row, const Cut& cut, const Measure& measure) {
  std::int64_t mine = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.size; i += sample_threads) {
    const float logit = row.at(i);
    if (cut.keeps(i, key_of(logit))) mine += measure(logit);
  }
  return block_total(mine);
}

/// The likeliest token, and whether all logits are numbers.
template <class T>
__device__ RowFinding likeliest(const Row<T>& row) {
  __shared__ std::uint64_t best_of_warps[warps];
  std::uint64_t best = 0;  // the key, and below it the id's complement
  for (int i = static_cast<int>(threadIdx.x); i < row.size; i += sample_threads) {
    best = max(best, std::uint64_t{key_of(row.at(i))} << 32 | ~static_cast<unsigned>(i));
  }
  for (unsigned half = 16; half > 0; half /= 2) best = max(best, __shfl_xor_sync(0xffffffffU, best, half));
  if (threadIdx.x % 32 == 0) best_of_warps[threadIdx.x / 32] = best;
  __syncthreads();
  for (const std::uint64_t its : best_of_warps) best = max(best, its);
  const auto key = static_cast<unsigned>(best >> 32);
  RowFinding found;
  found.token = static_cast<std::int32_t>(~static_cast<unsigned>(best));
  found.largest = logit_of(key);
  if (key == 0xffffffffU) {
    found.state = RowFinding::State::has_nan;
  } else if (!(fabsf(found.largest) < INFINITY)) {
    found.state = RowFinding::State::not_finite;
  }
  return found;
}

/// The first id at which the sum of measure(id) over the ids exceeds `target`, which all together do. Each round leaves
/// what one warp has summed.
template <class Measure>
__device__ int where_passed(int size, const Measure& measure, std::int64_t target) {
  __shared__ std::int64_t sums[warps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  int first = 0;
  for (int count = size; count > 1;) {
    const int part = (count + warps - 1) / warps;
    const int end = min((warp + 1) * part, count);
    std::int64_t mine = 0;
    for (int i = warp * part + static_cast<int>(threadIdx.x) % 32; i < end; i += 32) mine += measure(first + i);
    for (unsigned half = 16; half > 0; half /= 2) mine += __shfl_xor_sync(0xffffffffU, mine, half);
    __syncthreads();  // the last sums are read
    if (threadIdx.x % 32 == 0) sums[warp] = mine;
    __syncthreads();
    int passed = 0;
    for (; passed < warps - 1 && target >= sums[passed]; ++passed) target -= sums[passed];
    first += passed * part;
    count = min(part, count - passed * part);
  }
  return first;
}

// A histogram by a digit of the key. A measure, up to 2^40, is added in pieces of 14 bits by 32-bit atomics: the pieces
// of 2^18 tokens have room.
constexpr int digit_bits = 11;
constexpr int digits = 1 << digit_bits;
constexpr int piece_bits = 14;
constexpr int pieces = 3;
constexpr int tokens_at_once = 1 << 18;
static_assert(digits == 2 * sample_threads, "a thread has two digits");

/// (pieces, digits), one for all that count.
__device__ unsigned* the_histogram() {
  __shared__ unsigned histogram[pieces * digits];
  return histogram;
}

/// Of `within`, the fewest likeliest tokens whose measures add up to `target`, which all together do, and more than 0.
/// Measures are the logits' alone. `sum`: what they add up to.
template <class T, class Measure>
__device__ Cut cut_at(const Row<T>& row, const Cut& within, const Measure& measure, std::int64_t target,
                      std::int64_t& sum) {
  unsigned* const histogram = the_histogram();
  __shared__ unsigned chosen;
  __shared__ std::int64_t rest;
  const auto me = static_cast<int>(threadIdx.x);
  const std::int64_t wanted = target;
  unsigned key = 0;  // the digits that are known
  for (int known = 0; known < 32;) {
    const int bits = min(digit_bits, 32 - known);
    const int shift = 32 - known - bits;
    std::int64_t mine[2] = {};  // of the digits that this thread has, the larger first
    for (int first = 0; first < row.size; first += tokens_at_once) {
      __syncthreads();  // the last histogram is read
      for (int i = me; i < pieces * digits; i += sample_threads) histogram[i] = 0;
      __syncthreads();
      for (int i = first + me; i < min(first + tokens_at_once, row.size); i += sample_threads) {
        const float logit = row.at(i);
        const unsigned its = key_of(logit);
        if ((known > 0 && (its ^ key) >> (32 - known) != 0) || !within.keeps(i, its)) continue;
        auto value = static_cast<std::uint64_t>(measure(logit));
        const unsigned digit = its >> shift & ((1U << bits) - 1);
        for (int piece = 0; value != 0; ++piece, value >>= piece_bits) {
          atomicAdd(&histogram[piece * digits + static_cast<int>(digit)],
                    static_cast<unsigned>(value) & ((1U << piece_bits) - 1));
        }
      }
      __syncthreads();
      for (int half = 0; half < 2; ++half) {
        const int digit = digits - 1 - 2 * me - half;
        for (int piece = 0; piece < pieces; ++piece) {
          mine[half] += std::int64_t{histogram[piece * digits + digit]} << (piece * piece_bits);
        }
      }
    }
    const std::int64_t before = sum_before(mine[0] + mine[1]);
    if (before < target && target <= before + mine[0] + mine[1]) {
      const bool second = target > before + mine[0];
      chosen = static_cast<unsigned>(digits - 1 - 2 * me - (second ? 1 : 0));
      rest = target - before - (second ? mine[0] : 0);
    }
    __syncthreads();
    key |= chosen << shift;
    target = rest;
    known += bits;
  }
  // Of equals the lower ids.
  const std::int64_t each = measure(logit_of(key));
  const std::int64_t equals = (target + each - 1) / each;
  sum = wanted - target + equals * each;
  const auto counts = [&](int i) {
    const unsigned its = key_of(row.at(i));
    return std::int64_t{its == key && within.keeps(i, its) ? 1 : 0};
  };
  return {key, where_passed(row.size, counts, equals - 1)};
}

template <class T>
__device__ int draw(const Row<T>& row, const RowSampling& wanted, float largest) {
  const Weighing weigh{largest, wanted.temperature};
  Cut cut;
  std::int64_t total = 0;
  if (wanted.top_k > 0 && wanted.top_k < row.size) cut = cut_at(row, cut, Counting{}, wanted.top_k, total);
  total = sum_of(row, cut, weigh);
  if (wanted.top_p < 1) {
    const auto mass = static_cast<std::int64_t>(ceil(wanted.top_p * static_cast<double>(total)));
    cut = cut_at(row, cut, weigh, min(max(mass, std::int64_t{1}), total), total);
  }
  const auto target = static_cast<std::int64_t>(wanted.share * static_cast<double>(total));
  const auto kept = [&](int i) {
    const float logit = row.at(i);
    return cut.keeps(i, key_of(logit)) ? weigh(logit) : 0;
  };
  return where_passed(row.size, kept, min(target, total - 1));
}

/// The `count` likeliest tokens, in any order.
template <class T>
__device__ void collect(const Row<T>& row, int count, Candidate* top) {
  __shared__ int collected;
  Cut cut;
  std::int64_t all = 0;
  if (count < row.size) cut = cut_at(row, cut, Counting{}, count, all);
  if (threadIdx.x == 0) collected = 0;
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < row.size; i += sample_threads) {
    const float logit = row.at(i);
    if (cut.keeps(i, key_of(logit))) top[atomicAdd(&collected, 1)] = {i, logit};
  }
}

template <class T>
__global__ void __launch_bounds__(sample_threads)
    sample_rows(Matrix<const T> logits, int vocabulary, const RowSampling* all, RowFinding* findings, Candidate* tops,
                int most) {
  const RowSampling wanted = all[blockIdx.x];
  const Row<T> row{logits.row(wanted.row), vocabulary};
  RowFinding found = likeliest(row);
  if (found.state == RowFinding::State::sound) {
    if (wanted.given >= 0) {
      found.token = wanted.given;
    } else if (wanted.temperature > 0) {
      found.token = draw(row, wanted, found.largest);
    }
    found.logit = row.at(found.token);
    if (wanted.logprobs >= 0) found.weights = sum_of(row, Cut{}, Weighing{found.largest, 1});
    if (wanted.logprobs > 0) {
      collect(row, min(wanted.logprobs, vocabulary), tops + std::int64_t{blockIdx.x} * most);
    }
  }
  if (threadIdx.x == 0) findings[blockIdx.x] = found;
}

}  // namespace

std::vector<Sampled> CudaDevice::sample(const Tensor& logits, std::span<const RowSampling> rows) {
  require_shape(logits, options_.activations, logits.rows, logits.cols, "sample: the logits");
  require_sampling(logits, rows);
  if (rows.empty()) return {};
  const auto vocabulary = static_cast<int>(logits.cols);
  int most = 0;  // alternatives
  for (const RowSampling& r : rows) most = std::max(most, std::min(r.logprobs, vocabulary));
  const std::size_t findings = rows.size() * sizeof(RowFinding);
  const std::size_t bytes = findings + rows.size() * static_cast<std::size_t>(most) * sizeof(Candidate);
  auto* found = more_rows_.get<std::byte>(static_cast<std::int64_t>(bytes));
  with_type(logits.type, [&]<class T>(T) {
    launch(sample_rows<T>, static_cast<unsigned>(rows.size()), sample_threads, 0, stream_, as_matrix<const T>(logits),
           vocabulary, static_cast<const RowSampling*>(rows_.put(rows)), reinterpret_cast<RowFinding*>(found),
           reinterpret_cast<Candidate*>(found + findings), most);
  });
  const std::byte* came = fetch({found, bytes, bytes, 1});
  std::vector<Sampled> out;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto* top = reinterpret_cast<const Candidate*>(came + findings) + i * static_cast<std::size_t>(most);
    const int count = std::clamp(rows[i].logprobs, 0, vocabulary);
    out.push_back(to_sampled(reinterpret_cast<const RowFinding*>(came)[i], rows[i].logprobs >= 0, {top, top + count}));
  }
  return out;
}

}  // namespace coterie
