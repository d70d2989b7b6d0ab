// The body of project_spectrum, included once per instruction set by spectral_projection_*.cpp, each with a name of its
// own for Eigen's namespace, so that code for different processors never shares a function. No include guard.
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <functional>

namespace COTERIE_SPECTRUM {

inline double project(double* matrix, int size, double cap, int count) {
  Eigen::Map<Eigen::MatrixXd> m(matrix, size, size);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(m);
  // Not always in order: where the solver gives up on the last digit it does not sort.
  const Eigen::VectorXd& before = solver.eigenvalues();

  // The projection shifts all eigenvalues by one number and cuts them off at 0 and cap.
  double low = before.minCoeff() - cap;
  double high = before.maxCoeff();
  for (int step = 0; step < 64; ++step) {
    const double shift = 0.5 * (low + high);
    const double sum = (before.array() - shift).max(0.0).min(cap).sum();
    (sum > count * cap ? low : high) = shift;
  }
  const Eigen::VectorXd after = (before.array() - low).max(0.0).min(cap).matrix();

  Eigen::MatrixXd kept(size, size);
  int rank = 0;
  for (int i = 0; i < size; ++i)
    if (after[i] > 0) kept.col(rank++) = std::sqrt(after[i]) * solver.eigenvectors().col(i);
  m.noalias() = kept.leftCols(rank) * kept.leftCols(rank).transpose();

  Eigen::VectorXd rest = before - after;
  std::nth_element(rest.data(), rest.data() + count, rest.data() + size, std::greater<>());
  return rest.head(count).sum();
}

}  // namespace COTERIE_SPECTRUM
