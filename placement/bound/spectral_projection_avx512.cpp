// project_spectrum for processors with AVX512. The standard library comes first: only Eigen and what is written here is
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

#pragma GCC target("avx2,fma,avx512f,avx512dq")
#define Eigen Eigen_avx512
#define COTERIE_SPECTRUM coterie::avx512
#include "placement/bound/spectral_projection_kernel.hpp"

namespace coterie {

double project_spectrum_avx512(double* matrix, int size, double cap, int count);

double project_spectrum_avx512(double* matrix, int size, double cap, int count) {
  return avx512::project(matrix, size, cap, count);
}

}  // namespace coterie
