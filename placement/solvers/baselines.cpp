#include "placement/solvers/baselines.hpp"

#include "placement/input_error.hpp"

#include <utility>

namespace coterie {

std::vector<int> even_counts(int experts, int ranks) {
  std::vector<int> counts(ranks, experts / ranks);
  for (int r = 0; r < experts % ranks; ++r) ++counts[r];
  return counts;
}

namespace {

Solution measured(std::string_view solver, std::chrono::steady_clock::time_point start, const std::string& broken,
                  double value) {
  if (!broken.empty()) throw InputError(broken + " (solver " + std::string(solver) + ")");
  Solution solution;
  solution.value = value;
  solution.solver = solver;
  solution.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return solution;
}

}  // namespace

Solution finished(const Problem& problem, Assignment assignment, std::string_view solver,
                  std::chrono::steady_clock::time_point start) {
  for (int l = 0; l < problem.layers(); ++l) {
    if (problem.is_fixed(l)) assignment[l] = problem.fixed[l];
  }
  const std::string broken = check_limits(problem, assignment);
  Solution solution = measured(solver, start, broken, broken.empty() ? evaluate(problem, assignment) : 0);
  solution.assignment = std::move(assignment);
  return solution;
}

Solution finished(const Problem& problem, Owners owners, std::string_view solver,
                  std::chrono::steady_clock::time_point start) {
  Assignment first;
  for (int l = 0; l < problem.layers(); ++l) {
    auto& row = first.emplace_back();
    for (int e = 0; e < problem.experts(); ++e) {
      if (problem.is_fixed(l)) owners[l][e] = {problem.fixed[l][e]};
      row.push_back(owners[l][e].front());
    }
  }
  if (problem.replicas == 0) return finished(problem, std::move(first), solver, start);
  const Assessment found = *assess(problem, owners);
  Solution solution = measured(solver, start, found.broken, found.figures.value);
  solution.assignment = std::move(first);
  solution.owners = std::move(owners);
  return solution;
}

}  // namespace coterie
