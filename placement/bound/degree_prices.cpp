#include "placement/bound/degree_prices.hpp"

#include <algorithm>
#include <cmath>

namespace coterie {
namespace {

constexpr int kSweeps = 4;                                                // at each temperature
constexpr double kTemperatures[] = {0.05, 0.0125, 0.003125, 0.00078125};  // as shares of the largest weight

double largest(std::span<const double> weight) {
  double most = 0;
  for (const double w : weight) most = std::max(most, std::abs(w));
  return most;
}

// The price at which the smoothed number of partners is `degree`: sum over j of 1 / (1 + exp((price - gain(j)) / t)).
double balanced_price(std::span<const double> gain, double degree, double temperature, double price) {
  double low = -1e300;
  double high = 1e300;
  for (int step = 0; step < 50; ++step) {
    double sum = 0;
    double slope = 0;
    for (const double g : gain) {
      const double share = 1 / (1 + std::exp((price - g) / temperature));
      sum += share;
      slope += share * (1 - share) / temperature;
    }
    if (std::abs(sum - degree) < 2e-2 * degree) break;
    (sum > degree ? low : high) = price;
    double next = price + (sum - degree) / std::max(slope, 1e-300);
    const double reach = 20 * temperature;  // far from the root the curve is flat
    next = std::clamp(next, price - reach, price + reach);
    if (!(next > low && next < high)) next = 0.5 * (low + high);
    price = next;
  }
  return price;
}

}  // namespace

DegreePrices degree_prices(std::span<const double> weight, int items, int capacity) {
  DegreePrices prices{std::vector<double>(items, 0), std::vector<double>(items, 0)};
  const double most = largest(weight);
  if (most <= 0 || capacity >= items) return prices;
  std::vector<double> gain(items);
  for (const double share : kTemperatures)
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      for (int i = 0; i < items; ++i) {
        for (int j = 0; j < items; ++j) gain[j] = weight[static_cast<std::size_t>(i) * items + j] - prices.column[j];
        prices.row[i] = balanced_price(gain, capacity, share * most, prices.row[i]);
      }
      for (int j = 0; j < items; ++j) {
        for (int i = 0; i < items; ++i) gain[i] = weight[static_cast<std::size_t>(i) * items + j] - prices.row[i];
        prices.column[j] = balanced_price(gain, capacity, share * most, prices.column[j]);
      }
    }
  return prices;
}

std::vector<double> degree_prices_within(std::span<const double> weight, int items, int capacity) {
  std::vector<double> price(items, 0);
  const double most = largest(weight);
  if (most <= 0 || capacity >= items || capacity < 2) return price;
  std::vector<double> gain(items - 1);
  for (const double share : kTemperatures)
    for (int sweep = 0; sweep < 2 * kSweeps; ++sweep)
      for (int i = 0; i < items; ++i) {
        for (int j = 0, at = 0; j < items; ++j)
          if (j != i) gain[at++] = weight[static_cast<std::size_t>(i) * items + j] - price[j];
        price[i] = balanced_price(gain, capacity - 1, share * most, price[i]);
      }
  return price;
}

}  // namespace coterie
