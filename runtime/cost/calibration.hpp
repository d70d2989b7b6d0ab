// What links and device reach, measured in a second or less at the start of a job.
#pragma once

#include "comm/communicator.hpp"
#include "kernels/device.hpp"
#include "placement/machine.hpp"

#include <cstdint>

namespace coterie {

/// The machine as this job meets it, all ranks at work at the same time: latency is that of an exchange that carries
/// nothing, bandwidth what a rank sends while all send; matrix products have `width` columns. `memory_per_rank` isn't
/// looked at, and where no node has two ranks its bandwidth is taken as 1 TB/s. Collective; the same figures on every
/// rank.
[[nodiscard]] Machine calibrate(Communicator& comm, Device& device, std::int64_t width);

}  // namespace coterie
