// project_spectrum for processors with AVX2. The standard library comes first: only Eigen and what is written here is
// compiled for them.
#include <algorithm>
#include <array>
#include <cmath>
#include <complex>
#include <cstring>
#include <functional>
#include <iosfwd>
#include <limits>
#include <memory>
#include <sstream>
#include <vector>

#pragma GCC target("avx2,fma")
#define Eigen Eigen_avx2
#define COTERIE_SPECTRUM coterie::avx2
#include "placement/bound/spectral_projection_kernel.hpp"

namespace coterie {

double project_spectrum_avx2(double* matrix, int size, double cap, int count);

double project_spectrum_avx2(double* matrix, int size, double cap, int count) {
  return avx2::project(matrix, size, cap, count);
}

}  // namespace coterie
