// The memory of the host that this process runs on.
#pragma once

#include <cstdint>

namespace coterie {

/// Bytes of memory that this process held at most.
[[nodiscard]] std::int64_t peak_memory();

/// Whether less than a thirty-second of the host's memory can still be had.
[[nodiscard]] bool memory_is_short();

}  // namespace coterie
