// Places further copies of experts where they save most: less traffic, more pairs kept, or a lighter heaviest rank.
#pragma once

#include "placement/problem.hpp"

#include <functional>

namespace coterie {

/// Up to problem.replicas copies for every layer, greedily on the cost that the rules of problem.hpp give, counted on a
/// sample of the tokens. Ranks above the load limit are relieved first. Copies that would save nothing are left out, so
/// slots may stay empty. Layers in parallel; the result doesn't depend on the number of threads. `stop` ends it where
/// it stands.
[[nodiscard]] Owners replicate(const Problem& problem, const Assignment& assignment, int threads,
                               const std::function<bool()>& stop);

}  // namespace coterie
