// Random numbers of the solvers: the same on every machine for a seed, unlike the standard library's distributions.
#pragma once

#include <cstdint>

namespace coterie {

/// SplitMix64 (Steele, Lea, Flood 2014).
class SplitMix {
 public:
  explicit SplitMix(std::uint64_t seed) noexcept : state_(seed) {}

  std::uint64_t next() noexcept {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// 0 ... bound - 1.
  int below(int bound) noexcept { return static_cast<int>(((next() >> 32) * static_cast<std::uint64_t>(bound)) >> 32); }
  /// In (0, 1).
  float unit() noexcept { return (static_cast<float>(next() >> 40) + 0.5F) * 0x1p-24F; }

 private:
  std::uint64_t state_;
};

}  // namespace coterie
