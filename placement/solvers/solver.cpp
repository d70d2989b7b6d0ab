#include "placement/solvers/solver.hpp"

#include "placement/input_error.hpp"

#include <algorithm>
#include <array>

namespace coterie {
namespace {

struct Entry {
  std::string_view name;
  std::unique_ptr<Solver> (*make)();
};

constexpr std::array<Entry, 10> kSolvers{{{"auto", make_auto_solver},
                                          {"dp", make_dp_solver},
                                          {"ilp", make_ilp_solver},
                                          {"sweep", make_sweep_solver},
                                          {"bipartition", make_bipartition_solver},
                                          {"contiguous", make_contiguous_solver},
                                          {"round-robin", make_round_robin_solver},
                                          {"random", make_random_solver},
                                          {"balanced", make_balanced_solver},
                                          {"eplb", make_eplb_solver}}};

}  // namespace

std::vector<std::string_view> solver_names() {
  std::vector<std::string_view> names;
  names.reserve(kSolvers.size());
  for (const Entry& entry : kSolvers) names.push_back(entry.name);
  return names;
}

std::unique_ptr<Solver> make_solver(std::string_view name) {
  const auto found = std::find_if(kSolvers.begin(), kSolvers.end(), [&](const Entry& e) { return e.name == name; });
  if (found != kSolvers.end()) return found->make();
  std::string expected;
  for (const Entry& entry : kSolvers) expected += (expected.empty() ? "" : ", ") + std::string(entry.name);
  throw InputError("solver: found '" + std::string(name) + "', expected one of " + expected);
}

}  // namespace coterie
