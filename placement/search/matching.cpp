#include "placement/search/matching.hpp"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>

namespace coterie {
namespace {

constexpr int kLargestSets = 8;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The most common size by far in exact solving: pairs of columns for the first two rows, the others for the last two.
double best_of_four(const double* w) {
  const auto pair = [](const double* a, const double* b, int i, int j) { return std::max(a[i] + b[j], a[j] + b[i]); };
  const auto split = [&](int i, int j, int k, int l) { return pair(w, w + 4, i, j) + pair(w + 8, w + 12, k, l); };
  return std::max({split(0, 1, 2, 3), split(0, 2, 1, 3), split(0, 3, 1, 2), split(1, 2, 0, 3), split(1, 3, 0, 2),
                   split(2, 3, 0, 1)});
}

}  // namespace

Matching::Matching(int size) : size_(size), column_of_(size) {
  if (size <= kLargestSets) {
    best_.resize(std::size_t{1} << size);
    return;
  }
  const std::size_t n = static_cast<std::size_t>(size) + 1;
  row_price_.resize(n);
  column_price_.resize(n);
  slack_.resize(n);
  row_of_.resize(n);
  previous_.resize(n);
  reached_.resize(n);
}

double Matching::best(std::span<const double> weight) {
  if (size_ > kLargestSets) return hungarian(weight);
  return size_ == 4 ? best_of_four(weight.data()) : over_sets(weight);
}

double Matching::over_sets(std::span<const double> weight) {
  best_[0] = 0;
  const auto last = static_cast<std::uint32_t>(best_.size());
  for (std::uint32_t mask = 1; mask < last; ++mask) {
    const double* row = weight.data() + static_cast<std::size_t>(std::popcount(mask) - 1) * size_;
    double best = -kInfinity;
    for (std::uint32_t rest = mask; rest != 0; rest &= rest - 1)
      best = std::max(best, best_[mask ^ (rest & -rest)] + row[std::countr_zero(rest)]);
    best_[mask] = best;
  }
  return best_[last - 1];
}

std::vector<int> Matching::columns(std::span<const double> weight) {
  if (size_ > kLargestSets) {
    hungarian(weight);
    return column_of_;
  }
  over_sets(weight);
  auto mask = static_cast<std::uint32_t>(best_.size() - 1);
  for (int row = size_ - 1; row >= 0; --row) {
    std::uint32_t taken = mask & -mask;
    double most = -kInfinity;
    for (std::uint32_t rest = mask; rest != 0; rest &= rest - 1) {
      const std::uint32_t bit = rest & -rest;
      const double sum = best_[mask ^ bit] + weight[static_cast<std::size_t>(row) * size_ + std::countr_zero(bit)];
      if (sum > most) {
        most = sum;
        taken = bit;
      }
    }
    column_of_[row] = std::countr_zero(taken);
    mask ^= taken;
  }
  return column_of_;
}

// Rows and columns count from 1; column 0 stands for "the row that is being added". Costs are negated weights.
double Matching::hungarian(std::span<const double> weight) {
  std::fill(row_price_.begin(), row_price_.end(), 0.0);
  std::fill(column_price_.begin(), column_price_.end(), 0.0);
  std::fill(row_of_.begin(), row_of_.end(), 0);
  for (int added = 1; added <= size_; ++added) {
    std::fill(slack_.begin(), slack_.end(), kInfinity);
    std::fill(reached_.begin(), reached_.end(), char{0});
    row_of_[0] = added;
    int column = 0;
    do {
      reached_[column] = 1;
      const int row = row_of_[column];
      const double* w = weight.data() + static_cast<std::size_t>(row - 1) * size_;
      double least = kInfinity;
      int next = 0;
      for (int c = 1; c <= size_; ++c) {
        if (reached_[c]) continue;
        const double reduced = -w[c - 1] - row_price_[row] - column_price_[c];
        if (reduced < slack_[c]) {
          slack_[c] = reduced;
          previous_[c] = column;
        }
        if (next == 0 || slack_[c] < least) {
          least = slack_[c];
          next = c;
        }
      }
      for (int c = 0; c <= size_; ++c) {
        if (reached_[c]) {
          row_price_[row_of_[c]] += least;
          column_price_[c] -= least;
        } else {
          slack_[c] -= least;
        }
      }
      column = next;
    } while (row_of_[column] != 0);
    for (; column != 0; column = previous_[column]) row_of_[column] = row_of_[previous_[column]];
  }
  double sum = 0;
  for (int c = 1; c <= size_; ++c) {
    column_of_[row_of_[c] - 1] = c - 1;
    sum += weight[static_cast<std::size_t>(row_of_[c] - 1) * size_ + c - 1];
  }
  return sum;
}

}  // namespace coterie
