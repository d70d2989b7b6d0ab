#include "placement/check/dual_check.hpp"

#include "placement/input_error.hpp"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <cstring>

namespace coterie {

template <typename T>
std::vector<T> checked_array(const SafetensorsFile& file, const std::string& name, ElementType type,
                             const Shape& shape) {
  const TensorView& view = file.at(name);
  bool same = view.type == type && view.shape.size() == shape.size();
  for (std::size_t i = 0; same && i < shape.size(); ++i) same = shape[i] < 0 || shape[i] == view.shape[i];
  if (!same)
    throw bad_field(file.path().string(), name, std::string(name_of(view.type)) + " " + to_string(view.shape),
                    std::string(name_of(type)) + " " + to_string(shape));
  std::vector<T> values(view.bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), view.bytes.data(), values.size() * sizeof(T));
  return values;
}
template std::vector<float> checked_array(const SafetensorsFile&, const std::string&, ElementType, const Shape&);
template std::vector<double> checked_array(const SafetensorsFile&, const std::string&, ElementType, const Shape&);
template std::vector<std::uint16_t> checked_array(const SafetensorsFile&, const std::string&, ElementType,
                                                  const Shape&);
template std::vector<std::int32_t> checked_array(const SafetensorsFile&, const std::string&, ElementType, const Shape&);

namespace {

using Eigen::MatrixXd;

/// Dual values of one block of layers, and what is left of its layers' weights once they are taken off.
class DualCheck {
 public:
  DualCheck(const SafetensorsFile& file, std::string name, const CheckedRelaxation& relaxation)
      : file_(file),
        name_(std::move(name)),
        r_(relaxation),
        n_(relaxation.items()),
        span_(relaxation.between.empty() ? 1 : 2),
        blocks_(relaxation.between.empty() ? relaxation.layers : relaxation.layers - 1) {
    for (int l = 0; l < r_.layers; ++l) {
      inside_.push_back(MatrixXd::Zero(n_, n_));
      if (!r_.within.empty()) load(r_.within[l], inside_.back());
    }
    for (const std::vector<double>& weight : r_.between) {
      across_.push_back(MatrixXd::Zero(n_, n_));
      load(weight, across_.back());
    }
  }

  double run() {
    take_matrices();
    take_triangles();
    take_loads();
    return bound_ + rest() + copies();
  }

 private:
  void load(const std::vector<double>& weight, MatrixXd& to) const {
    for (int i = 0; i < r_.experts; ++i)
      for (int j = 0; j < r_.experts; ++j) to(i, j) = weight[static_cast<std::size_t>(i) * r_.experts + j];
  }

  [[nodiscard]] float finite(float value, const std::string& array, bool price) const {
    if (std::isfinite(value) && (!price || value >= 0)) return value;
    throw bad_field(file_.path().string(), name_ + array, std::to_string(value),
                    price ? "a finite price of at least 0" : "a finite number");
  }

  /// <Y, X> is at most (sum of Y) / parts + (largest eigenvalues of the centred Y) * (items of a part in the block).
  void take_matrices() {
    const int size = span_ * n_;
    const auto entries = static_cast<std::int64_t>(size) * (size + 1) / 2;
    const auto values = checked_array<float>(file_, name_ + ".matrix", ElementType::f32, {blocks_, entries});
    std::size_t at = 0;
    for (int b = 0; b < blocks_; ++b) {
      MatrixXd y(size, size);
      for (int i = 0; i < size; ++i)
        for (int j = i; j < size; ++j) y(i, j) = y(j, i) = finite(values[at++], ".matrix", false);
      bound_ += y.sum() / r_.parts + span_ * r_.capacity * largest_eigenvalues(y);
      // Diagonal entries of S are 1 and have no weight; all others stand in the matrix twice.
      for (Eigen::Index layer = 0; layer < span_; ++layer) {
        inside_[b + layer] -= 2 * y.block(layer * n_, layer * n_, n_, n_);
        bound_ -= y.block(layer * n_, layer * n_, n_, n_).trace();
      }
      if (span_ == 2) across_[b] -= 2 * y.block(0, n_, n_, n_);
    }
  }

  /// Of the centred matrix, parts - 1 of them; with what rounding may have moved them.
  [[nodiscard]] double largest_eigenvalues(const MatrixXd& y) const {
    MatrixXd centring = MatrixXd::Identity(n_, n_) - MatrixXd::Constant(n_, n_, 1.0 / n_);
    MatrixXd centred(y.rows(), y.cols());
    for (Eigen::Index a = 0; a < span_; ++a)
      for (Eigen::Index b = 0; b < span_; ++b)
        centred.block(a * n_, b * n_, n_, n_) = centring * y.block(a * n_, b * n_, n_, n_) * centring;
    const MatrixXd symmetric = (centred + centred.transpose()) / 2;
    const Eigen::SelfAdjointEigenSolver<MatrixXd> solver(symmetric);
    const MatrixXd again =
        solver.eigenvectors() * solver.eigenvalues().asDiagonal() * solver.eigenvectors().transpose();
    const double off = (again - symmetric).norm() + 1e-14 * static_cast<double>(y.rows()) * y.norm();
    std::vector<double> values(solver.eigenvalues().data(), solver.eigenvalues().data() + y.rows());
    std::sort(values.rbegin(), values.rend());
    double sum = 0;
    for (int e = 0; e < r_.parts - 1; ++e) sum += values[e] + off;
    return sum;
  }

  void take_triangles() {
    const auto items = checked_array<std::uint16_t>(file_, name_ + ".triangle_items", ElementType::u16, {-1, 3});
    const auto count = static_cast<std::int64_t>(items.size() / 3);
    const auto block = checked_array<std::int32_t>(file_, name_ + ".triangle_block", ElementType::i32, {count});
    const auto price = checked_array<float>(file_, name_ + ".triangle_price", ElementType::f32, {count});
    for (std::int64_t t = 0; t < count; ++t) {
      const int i = items[3 * t], j = items[3 * t + 1], q = items[3 * t + 2];
      if (block[t] < 0 || block[t] >= blocks_ || std::max({i, j, q}) >= span_ * n_ || i == j || i == q || j == q)
        throw bad_field(file_.path().string(), name_ + ".triangle_items[" + std::to_string(t) + "]",
                        std::to_string(i) + ", " + std::to_string(j) + ", " + std::to_string(q) + " of block " +
                            std::to_string(block[t]),
                        "three different items of a block");
      const double p = finite(price[t], ".triangle_price", true);
      bound_ += p;
      pair(block[t], i, j) -= p;
      pair(block[t], i, q) -= p;
      pair(block[t], j, q) += p;
    }
  }

  /// What is left of the weight of a pair of a block's items.
  double& pair(int block, int i, int j) {
    if (i > j) std::swap(i, j);
    if (i >= n_) return inside_[block + 1](i - n_, j - n_);
    return j < n_ ? inside_[block](i, j) : across_[block](i, j - n_);
  }

  /// The load of an item's part is at most 1: its own and that of all that share the part.
  void take_loads() {
    if (r_.load.empty()) return;
    const auto price = checked_array<float>(file_, name_ + ".load_price", ElementType::f32, {r_.layers, n_});
    for (int l = 0; l < r_.layers; ++l)
      for (int i = 0; i < n_; ++i) {
        const double p = finite(price[static_cast<std::size_t>(l) * n_ + i], ".load_price", true);
        bound_ += p * (1 - r_.load[l][i]);
        for (int j = 0; j < n_; ++j)
          if (j != i) inside_[l](std::min(i, j), std::max(i, j)) -= p * r_.load[l][j];
      }
  }

  static double most(CheckedRelaxation::Known known, double weight) {
    return known == CheckedRelaxation::apart      ? 0
           : known == CheckedRelaxation::together ? weight
                                                  : std::max(0.0, weight);
  }

  /// Each pair shares a part wholly where something is left of its weight, and else not at all.
  [[nodiscard]] double rest() const {
    double sum = 0;
    for (int l = 0; l < r_.layers; ++l)
      for (int i = 0; i < n_; ++i)
        for (int j = i + 1; j < n_; ++j)
          sum += most(r_.known[l][static_cast<std::size_t>(i) * n_ + j], inside_[l](i, j));
    for (const MatrixXd& layer : across_)
      for (int i = 0; i < n_; ++i)
        for (int j = 0; j < n_; ++j) sum += most(r_.known_between[static_cast<std::size_t>(i) * n_ + j], layer(i, j));
    return sum;
  }

  /// A pair that only a further copy brings together gains what was taken off its weight, and not more than its weight.
  [[nodiscard]] double copies() const {
    double sum = 0;
    const auto experts = static_cast<std::size_t>(r_.experts);
    const auto gain = [](double weight, double left) { return std::max(0.0, std::min(weight, weight - left)); };
    for (std::size_t l = 0; l < r_.within.size(); ++l) {
      std::vector<double> gains(r_.within[l].size(), 0);
      for (int i = 0; i < r_.experts; ++i)
        for (int j = 0; j < r_.experts; ++j)
          if (i != j)
            gains[i * experts + j] = gain(r_.within[l][i * experts + j], inside_[l](std::min(i, j), std::max(i, j)));
      sum += most_of_copies(gains, r_.experts, r_.replicas, r_.capacity - 1);
    }
    for (std::size_t l = 0; l < r_.between.size(); ++l) {
      std::vector<double> gains(r_.between[l].size(), 0), turned(gains);
      for (int i = 0; i < r_.experts; ++i)
        for (int j = 0; j < r_.experts; ++j)
          gains[i * experts + j] = turned[j * experts + i] = gain(r_.between[l][i * experts + j], across_[l](i, j));
      sum += most_of_copies(gains, r_.experts, r_.replicas, r_.capacity) +
             most_of_copies(turned, r_.experts, r_.replicas, r_.capacity);
    }
    return sum;
  }

  const SafetensorsFile& file_;
  std::string name_;
  const CheckedRelaxation& r_;
  int n_, span_, blocks_;
  std::vector<MatrixXd> inside_;  // (layers)(items, items): what is left of the weights; upper triangle
  std::vector<MatrixXd> across_;  // (layers - 1)(items, items)
  double bound_ = 0;
};

}  // namespace

double most_of_copies(const std::vector<double>& gain, int experts, int copies, int meets) {
  if (copies == 0 || meets == 0) return 0;
  std::vector<double> pieces;
  const auto n = static_cast<std::size_t>(experts);
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<double> row(gain.begin() + static_cast<std::ptrdiff_t>(i * n),
                            gain.begin() + static_cast<std::ptrdiff_t>((i + 1) * n));
    std::sort(row.rbegin(), row.rend());
    for (std::size_t j = 0; j < n && row[j] > 0; ++j) {
      if (j % static_cast<std::size_t>(meets) == 0) pieces.push_back(0);
      pieces.back() += row[j];
    }
  }
  std::sort(pieces.rbegin(), pieces.rend());
  if (pieces.size() > static_cast<std::size_t>(copies)) pieces.resize(copies);
  double sum = 0;
  for (const double piece : pieces) sum += piece;
  return sum;
}

double checked_bound(const SafetensorsFile& file, const std::string& name, const CheckedRelaxation& relaxation) {
  return DualCheck(file, name, relaxation).run();
}

}  // namespace coterie
