// Dual values of the doubly nonnegative relaxation, and the bound that they prove.
#pragma once

#include "placement/bound/relaxation.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace coterie {

/// Proves an upper bound of a relaxation, whatever the values are, as long as no price is negative.
/// placement/bound/bounds.md has the formula.
struct DualValues {
  /// S(i, j) + S(i, q) - S(j, q) <= 1 for three items of a block; those of its second layer count from items() on.
  struct Triangle {
    std::uint16_t i = 0, j = 0, q = 0;
    float price = 0;
  };
  /// (blocks)(n (n + 1) / 2) with n = span * items: the upper triangle of a symmetric matrix, row by row.
  std::vector<std::vector<float>> matrix;
  std::vector<std::vector<Triangle>> triangles;  ///< (blocks)
  std::vector<std::vector<float>> load_price;    ///< (layers)(items), or empty
};

/// Where (i, j), i <= j, of a symmetric matrix of size n lies in its upper triangle, row by row.
[[nodiscard]] inline std::size_t packed(std::size_t i, std::size_t j, std::size_t n) noexcept {
  return i * n - i * (i + 1) / 2 + j;
}

/// The sum of many terms, and how far off it may be.
struct RoundedSum {
  double value = 0;
  double error = 0;
};

/// The dual bound but for the matrices' eigenvalues: prices, means and what is left of the weights.
[[nodiscard]] RoundedSum weights_part(const Relaxation& relaxation, const DualValues& dual, int threads);

/// The upper bound that the dual values prove; rounding errors are added to it.
[[nodiscard]] double dual_bound(const Relaxation& relaxation, const DualValues& dual, int threads);

}  // namespace coterie
