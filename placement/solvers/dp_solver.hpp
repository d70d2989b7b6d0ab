// Whether exact dynamic programming is an answer to a problem.
#pragma once

#include "placement/problem.hpp"

#include <string>

namespace coterie {

/// Empty when the solver `dp` proves the problem's optimum within seconds; else why not, for a user.
[[nodiscard]] std::string why_dp_does_not_fit(const Problem& problem);

}  // namespace coterie
