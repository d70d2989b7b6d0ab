// The body of project_spectrum, included once per instruction set by spectral_projection*.cpp, each with a name of its
// own for Eigen's namespace, so that code for different processors never shares a function. No include guard.
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <functional>

namespace COTERIE_SPECTRUM {

inline constexpr int kLarge = 192;  // from this size on single precision: half the time, and exact enough to go on

template <typename Scalar>
double project_with(double* matrix, int size, double cap, int count) {
  using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
  Eigen::Map<Eigen::MatrixXd> m(matrix, size, size);
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(m.cast<Scalar>());
  // Not always in order: where the solver gives up on the last digit it does not sort.
  const Eigen::VectorXd before = solver.eigenvalues().template cast<double>();

  // The projection shifts all eigenvalues by one number and cuts them off at 0 and cap.
  double low = before.minCoeff() - cap;
  double high = before.maxCoeff();
  for (int step = 0; step < 64; ++step) {
    const double shift = 0.5 * (low + high);
    const double sum = (before.array() - shift).max(0.0).min(cap).sum();
    (sum > count * cap ? low : high) = shift;
  }
  const Eigen::VectorXd after = (before.array() - low).max(0.0).min(cap).matrix();

  Matrix kept(size, size);
  int rank = 0;
  for (int i = 0; i < size; ++i)
    if (after[i] > 0) kept.col(rank++) = static_cast<Scalar>(std::sqrt(after[i])) * solver.eigenvectors().col(i);
  Matrix product(size, size);
  product.noalias() = kept.leftCols(rank) * kept.leftCols(rank).transpose();
  m = product.template cast<double>();

  Eigen::VectorXd rest = before - after;
  std::nth_element(rest.data(), rest.data() + count, rest.data() + size, std::greater<>());
  return rest.head(count).sum();
}

inline double project(double* matrix, int size, double cap, int count) {
  return size < kLarge ? project_with<double>(matrix, size, cap, count) : project_with<float>(matrix, size, cap, count);
}

}  // namespace COTERIE_SPECTRUM
