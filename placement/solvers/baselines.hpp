// What the baseline solvers (contiguous, round-robin, random, balanced, bipartition, eplb) share.
#pragma once

#include "placement/solvers/solver.hpp"

#include <chrono>
#include <string_view>
#include <vector>

namespace coterie {

/// (ranks): how many experts of a layer each rank gets when they are dealt evenly; the first experts % ranks one more.
[[nodiscard]] std::vector<int> even_counts(int experts, int ranks);

/// `assignment`, with the problem's fixed layers as they are given, as the solution of `solver`, started at `start`.
/// Throws InputError "infeasible: …" when it breaks a limit of the problem.
[[nodiscard]] Solution finished(const Problem& problem, Assignment assignment, std::string_view solver,
                                std::chrono::steady_clock::time_point start);
/// The same with replicas.
[[nodiscard]] Solution finished(const Problem& problem, Owners owners, std::string_view solver,
                                std::chrono::steady_clock::time_point start);

}  // namespace coterie
