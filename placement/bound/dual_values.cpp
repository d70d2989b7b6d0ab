#include "placement/bound/dual_values.hpp"

#include "placement/parallel.hpp"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>

namespace coterie {
namespace {

using Eigen::MatrixXd;
using Eigen::VectorXd;

constexpr double kEpsilon = std::numeric_limits<double>::epsilon();

// Adds terms so that the error stays known: a sum of n terms is off by at most n epsilon times their magnitudes' sum.
class Adding {
 public:
  void add(double term) {
    value_ += term;
    magnitude_ += std::abs(term);
    ++terms_;
  }
  void add(const RoundedSum& part) {
    add(part.value);
    error_ += part.error;
  }
  [[nodiscard]] RoundedSum sum() const {
    return {value_, error_ + 2 * kEpsilon * static_cast<double>(terms_) * magnitude_};
  }

 private:
  double value_ = 0, magnitude_ = 0, error_ = 0;
  std::int64_t terms_ = 0;
};

/// What the prices of triangles and loads take off the weight of each pair.
struct PricesOfPairs {
  std::vector<std::vector<double>> within;   // (layers)(items, items), upper triangle
  std::vector<std::vector<double>> between;  // (layers - 1)(items, items)
};

PricesOfPairs prices_of_pairs(const Relaxation& relaxation, const DualValues& dual) {
  const auto n = static_cast<std::size_t>(relaxation.items());
  PricesOfPairs prices;
  prices.within.assign(relaxation.layers, std::vector<double>(n * n, 0));
  prices.between.assign(relaxation.between.size(), std::vector<double>(n * n, 0));
  for (std::size_t b = 0; b < dual.triangles.size(); ++b) {
    const auto at = [&](std::size_t x, std::size_t y) -> double& {
      if (x > y) std::swap(x, y);
      if (y < n) return prices.within[b][x * n + y];
      return x < n ? prices.between[b][x * n + y - n] : prices.within[b + 1][(x - n) * n + y - n];
    };
    for (const DualValues::Triangle& t : dual.triangles[b]) {
      at(t.i, t.j) += t.price;
      at(t.i, t.q) += t.price;
      at(t.j, t.q) -= t.price;
    }
  }
  for (std::size_t l = 0; l < dual.load_price.size(); ++l)
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t j = i + 1; j < n; ++j)
        prices.within[l][i * n + j] += dual.load_price[l][i] * relaxation.load[l][j] +
                                       static_cast<double>(dual.load_price[l][j]) * relaxation.load[l][i];
  return prices;
}

double most(Share share, double rest) {
  switch (share) {
    case Share::never:
      return 0;
    case Share::maybe:
      return std::max(0.0, rest);
    case Share::always:
      return rest;
  }
  return rest;
}

/// Y of a pair i <= j inside a layer, summed over the layer's blocks.
double matrix_price(const Relaxation& relaxation, const DualValues& dual, int layer, std::size_t i, std::size_t j) {
  const auto n = static_cast<std::size_t>(relaxation.items());
  const std::size_t size = n * relaxation.span();
  double y = 0;
  if (layer < relaxation.blocks()) y += dual.matrix[layer][packed(i, j, size)];
  if (relaxation.coupled() && layer > 0) y += dual.matrix[layer - 1][packed(n + i, n + j, size)];
  return y;
}

/// Pairs inside a layer, the layer's own diagonal, and its load prices.
RoundedSum within_part(const Relaxation& relaxation, const DualValues& dual, const PricesOfPairs& prices, int layer) {
  const auto n = static_cast<std::size_t>(relaxation.items());
  Adding all;
  for (std::size_t i = 0; i < n; ++i) {
    Adding row;
    for (std::size_t j = i; j < n; ++j) {
      const double y = matrix_price(relaxation, dual, layer, i, j);
      if (i == j) {
        row.add(-y);
        continue;
      }
      const double weight = relaxation.within.empty() ? 0 : relaxation.within[layer][i * n + j];
      row.add(most(relaxation.share[layer][i * n + j], weight - 2 * y - prices.within[layer][i * n + j]));
    }
    if (!dual.load_price.empty()) row.add(dual.load_price[layer][i] * (1 - relaxation.load[layer][i]));
    all.add(row.sum());
  }
  return all.sum();
}

/// Pairs between a layer and the next.
RoundedSum between_part(const Relaxation& relaxation, const DualValues& dual, const PricesOfPairs& prices, int layer) {
  const auto n = static_cast<std::size_t>(relaxation.items());
  Adding all;
  for (std::size_t i = 0; i < n; ++i) {
    Adding row;
    for (std::size_t j = 0; j < n; ++j) {
      const double y = dual.matrix[layer][packed(i, n + j, 2 * n)];
      row.add(most(relaxation.share_between[i * n + j],
                   relaxation.between[layer][i * n + j] - 2 * y - prices.between[layer][i * n + j]));
    }
    all.add(row.sum());
  }
  return all.sum();
}

/// What a pair that shares a part by a further copy alone gains: its price, and no more than its weight. What is left
/// of the weight counts with the weights, once.
double copy_gain(double weight, double price) {
  return std::max(0.0, std::min(weight, price));
}

std::vector<double> copy_gains_within(const Relaxation& relaxation, const DualValues& dual,
                                      const std::vector<double>& prices, int layer) {
  const auto n = static_cast<std::size_t>(relaxation.items());
  const auto experts = static_cast<std::size_t>(relaxation.experts);
  std::vector<double> gains(experts * experts, 0);
  for (std::size_t i = 0; i < experts; ++i)
    for (std::size_t j = i + 1; j < experts; ++j)
      gains[i * experts + j] = gains[j * experts + i] = copy_gain(
          relaxation.within[layer][i * n + j], 2 * matrix_price(relaxation, dual, layer, i, j) + prices[i * n + j]);
  return gains;
}

/// What further copies may add.
double replica_part(const Relaxation& relaxation, const DualValues& dual, const PricesOfPairs& prices, int layer) {
  const auto n = static_cast<std::size_t>(relaxation.items());
  const auto experts = static_cast<std::size_t>(relaxation.experts);
  double sum = 0;
  if (!relaxation.within.empty())
    sum += replica_gain(copy_gains_within(relaxation, dual, prices.within[layer], layer), relaxation.experts,
                        relaxation.replicas, relaxation.capacity - 1);
  if (relaxation.coupled() && layer < relaxation.blocks()) {
    std::vector<double> gains(experts * experts), turned(experts * experts);
    for (std::size_t i = 0; i < experts; ++i)
      for (std::size_t j = 0; j < experts; ++j) {
        const double y = dual.matrix[layer][packed(i, n + j, 2 * n)];
        gains[i * experts + j] = turned[j * experts + i] =
            copy_gain(relaxation.between[layer][i * n + j], 2 * y + prices.between[layer][i * n + j]);
      }
    for (const std::vector<double>* side : {&gains, &turned})
      sum += replica_gain(*side, relaxation.experts, relaxation.replicas, relaxation.capacity);
  }
  return sum;
}

/// The matrix' own mean entry, times what all pairs that share a part number: (items * span)^2 / parts; and its prices.
RoundedSum block_part(const Relaxation& relaxation, const DualValues& dual, int block) {
  const std::size_t size = static_cast<std::size_t>(relaxation.items()) * relaxation.span();
  Adding all;
  for (std::size_t i = 0; i < size; ++i) {
    Adding row;
    for (std::size_t j = i; j < size; ++j) {
      const double y = dual.matrix[block][packed(i, j, size)];
      row.add((i == j ? y : 2 * y) / relaxation.parts);
    }
    all.add(row.sum());
  }
  Adding prices;
  for (const DualValues::Triangle& t : dual.triangles[block]) prices.add(t.price);
  all.add(prices.sum());
  return all.sum();
}

/// Upper bound of <Y, Z> for centred Z with 0 <= Z <= size of a part in the block and as many of these eigenvalues as
/// there are parts, less one: the largest eigenvalues of the centred Y. Errors of the decomposition are found by
/// putting it together again: eigenvalues move by no more than the norm of what is missing (Weyl), and by the defect of
/// orthogonality relatively (Ostrowski).
double eigenvalue_part(const Relaxation& relaxation, const std::vector<float>& matrix) {
  const int n = relaxation.items();
  const int span = relaxation.span();
  const int size = n * span;
  MatrixXd y(size, size);
  for (int i = 0; i < size; ++i)
    for (int j = i; j < size; ++j) y(i, j) = y(j, i) = matrix[packed(i, j, size)];
  const double norm = y.norm();
  for (int a = 0; a < span; ++a)
    for (int b = 0; b < span; ++b) {
      auto part = y.block(Eigen::Index{a} * n, Eigen::Index{b} * n, n, n);
      const VectorXd rows = part.rowwise().mean();
      const Eigen::RowVectorXd columns = part.colwise().mean();
      const double mean = rows.mean();
      part.colwise() -= rows;
      part.rowwise() -= columns;
      part.array() += mean;
    }
  const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(y);
  VectorXd values = solver.eigenvalues();
  const MatrixXd& vectors = solver.eigenvectors();
  y.noalias() -= vectors * values.asDiagonal() * vectors.transpose();
  MatrixXd defect = -MatrixXd::Identity(size, size);
  defect.noalias() += vectors.transpose() * vectors;
  const double computing = 8.0 * size * kEpsilon * norm;  // of the centring and of the two products
  const double error = y.norm() + defect.norm() * values.cwiseAbs().maxCoeff() + 2 * computing;
  const int count = relaxation.parts - 1;
  std::sort(values.begin(), values.end());  // where the solver gives up on the last digit it does not
  return span * relaxation.capacity * (values.tail(count).sum() + count * error);
}

}  // namespace

RoundedSum weights_part(const Relaxation& relaxation, const DualValues& dual, int threads) {
  const PricesOfPairs prices = prices_of_pairs(relaxation, dual);
  std::vector<RoundedSum> parts(relaxation.layers);
  parallel_for(threads, parts.size(), [&](std::size_t l) {
    const int layer = static_cast<int>(l);
    Adding sum;
    sum.add(within_part(relaxation, dual, prices, layer));
    if (layer < relaxation.blocks()) sum.add(block_part(relaxation, dual, layer));
    if (relaxation.coupled() && layer < relaxation.blocks()) sum.add(between_part(relaxation, dual, prices, layer));
    if (relaxation.replicas > 0) sum.add(replica_part(relaxation, dual, prices, layer) * (1 + 1e-11));
    parts[l] = sum.sum();
  });
  Adding all;
  for (const RoundedSum& part : parts) all.add(part);
  return all.sum();
}

double dual_bound(const Relaxation& relaxation, const DualValues& dual, int threads) {
  const RoundedSum rest = weights_part(relaxation, dual, threads);
  std::vector<double> parts(relaxation.blocks());
  parallel_for(threads, parts.size(), [&](std::size_t b) { parts[b] = eigenvalue_part(relaxation, dual.matrix[b]); });
  Adding all;
  all.add(rest);
  for (const double part : parts) all.add(part);
  return all.sum().value + all.sum().error;
}

}  // namespace coterie
