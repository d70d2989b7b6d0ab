// Stands in for ilp_solver.cpp in a build that did not find HiGHS.
#include "placement/input_error.hpp"
#include "placement/solvers/solver.hpp"

namespace coterie {

std::unique_ptr<Solver> make_ilp_solver() {
  throw InputError(
      "solver ilp: this build has no HiGHS; scripts/setup installs it, then build again, or use --solver auto");
}

}  // namespace coterie
