#include "tests/bench/peak.hpp"

#include <immintrin.h>

#include <algorithm>
#include <ctime>

namespace coterie {
namespace {

constexpr int chains = 20;
constexpr long steps = 500'000;

/// GFLOP/s of the fastest of some runs.
template <class Run>
double fastest(double flops, const Run& run) {
  double best = 0;
  for (int i = 0; i < 10; ++i) {
    const double start = cpu_seconds();
    run();
    best = std::max(best, flops / (cpu_seconds() - start) / 1e9);
  }
  return best;
}

volatile float sink;

[[gnu::target("arch=x86-64-v4")]] void multiply_avx512() {
  __m512 sums[chains];
  for (int i = 0; i < chains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));  // equal chains would become one
  const __m512 factor = _mm512_set1_ps(sink + 1.0F);
  for (long s = 0; s < steps; ++s) {
#pragma GCC unroll 20
    for (__m512& sum : sums) sum = _mm512_fmadd_ps(sum, factor, factor);
  }
  for (const __m512& sum : sums) sink = sum[0];
}

[[gnu::target("arch=x86-64-v3")]] void multiply_avx2() {
  __m256 sums[chains / 2];
  for (int i = 0; i < chains / 2; ++i) sums[i] = _mm256_set1_ps(static_cast<float>(i));
  const __m256 factor = _mm256_set1_ps(sink + 1.0F);
  for (long s = 0; s < steps; ++s) {
#pragma GCC unroll 10
    for (__m256& sum : sums) sum = _mm256_fmadd_ps(sum, factor, factor);
  }
  for (const __m256& sum : sums) sink = sum[0];
}

[[gnu::target("arch=x86-64-v4,avx512bf16")]] void multiply_bf16() {
  __m512 sums[chains];
  for (int i = 0; i < chains; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));  // equal chains would become one
  const auto factor = reinterpret_cast<__m512bh>(_mm512_set1_epi32(static_cast<int>(sink) + 0x3f803f80));
  for (long s = 0; s < steps; ++s) {
#pragma GCC unroll 20
    for (__m512& sum : sums) sum = _mm512_dpbf16_ps(sum, factor, factor);
  }
  for (const __m512& sum : sums) sink = sum[0];
}

}  // namespace

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double peak_f32() {
  static const double peak = __builtin_cpu_supports("avx512f") ? fastest(32.0 * chains * steps, multiply_avx512)
                                                               : fastest(8.0 * chains * steps, multiply_avx2);
  return peak;
}

double peak_bf16() {
  static const double peak = __builtin_cpu_supports("avx512bf16") ? fastest(64.0 * chains * steps, multiply_bf16) : 0;
  return peak;
}

}  // namespace coterie
