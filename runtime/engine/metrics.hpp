// What all ranks of a job counted and timed, as JSON.
#pragma once

#include "comm/counting_communicator.hpp"
#include "runtime/experts/work_metrics.hpp"

#include <nlohmann/json.hpp>

namespace coterie {

/// The job's metrics, put together from all ranks; meaningful on rank 0, null elsewhere. Collective. `counted` counts
/// the layers' communicator; `comm` carries this call's own message and may be the same or what it wraps.
[[nodiscard]] nlohmann::json gather_metrics(Communicator& comm, const CountingCommunicator& counted,
                                            const WorkMetrics& mine);

}  // namespace coterie
