// Philox4x32-10, a counter-based random number generator: a pure function of key and counter, so that a number depends
// on what it is for and not on what was drawn before. Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011, section 3.3.
#pragma once

#include <array>
#include <cstdint>

namespace coterie {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

/// Four words, each uniform over 32 bits.
[[nodiscard]] PhiloxCounter philox(PhiloxCounter counter, PhiloxKey key) noexcept;

}  // namespace coterie
