#include "placement/bound/spectral_projection.hpp"

#define COTERIE_SPECTRUM coterie::plain
#include "placement/bound/spectral_projection_kernel.hpp"

namespace coterie {

#ifdef COTERIE_X86
double project_spectrum_avx2(double* matrix, int size, double cap, int count);
double project_spectrum_avx512(double* matrix, int size, double cap, int count);
#endif

double project_spectrum(double* matrix, int size, double cap, int count) {
#ifdef COTERIE_X86
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  static const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
  if (avx512) return project_spectrum_avx512(matrix, size, cap, count);
  if (avx2) return project_spectrum_avx2(matrix, size, cap, count);
#endif
  return plain::project(matrix, size, cap, count);
}

}  // namespace coterie
