// Prices of an item's company: the linear relaxation in which each item shares its part with a given number of others.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace coterie {

/// Prices u, v that make sum of capacity * (u + v) + sum of max(0, weight(i, j) - u(i) - v(j)) small: an upper bound of
/// the weight of pairs when every row is paired with `capacity` columns and every column with as many rows, whatever
/// the prices. Smoothed with falling temperature, so near to the least.
struct DegreePrices {
  std::vector<double> row, column;  // (items)
};
/// `weight`: (items, items), row-major.
[[nodiscard]] DegreePrices degree_prices(std::span<const double> weight, int items, int capacity);

/// The same inside a layer: `weight` symmetric, each unordered pair once; every item is paired with capacity - 1
/// others. The bound is sum of (capacity - 1) * price + sum over pairs of max(0, weight - price(i) - price(j)).
[[nodiscard]] std::vector<double> degree_prices_within(std::span<const double> weight, int items, int capacity);

}  // namespace coterie
