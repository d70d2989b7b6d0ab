// Projection of symmetric matrices onto a set given by their eigenvalues, compiled for several instruction sets.
#pragma once

namespace coterie {

/// The nearest matrix (Frobenius) with eigenvalues in [0, cap] that add up to count * cap, in place of `matrix` (size,
/// size), symmetric. `count` < size. Returns the sum of the `count` largest eigenvalues of (matrix - projection).
double project_spectrum(double* matrix, int size, double cap, int count);

}  // namespace coterie
