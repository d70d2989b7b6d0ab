// The relaxed problems of a placement problem: experts that share a rank, and experts that share a node.
#pragma once

#include "placement/bound/relaxation.hpp"
#include "placement/problem.hpp"

#include <optional>
#include <vector>

namespace coterie {

/// Parts are the ranks, without weights. With replicas each expert's first copy alone is placed. The load limit is
/// known to it unless there are replicas. None where the items would be too many: more than twice the experts.
[[nodiscard]] std::optional<Relaxation> rank_relaxation(const Problem& problem);
/// Parts are the nodes. None as above, or when there is only one node.
[[nodiscard]] std::optional<Relaxation> node_relaxation(const Problem& problem);

/// (layers)(items): the part of each item when the experts are placed so; empty slots fill the parts up. Empty where
/// the placement does not fit the relaxation.
[[nodiscard]] std::vector<std::vector<int>> parts_of(const Problem& problem, const Relaxation& relaxation,
                                                     const Assignment& assignment);

}  // namespace coterie
