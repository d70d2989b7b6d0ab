// The fastest dispatch plan there is, by integer programming: what planners are measured against.
#pragma once

#include "placement/dispatch/plan_dispatch.hpp"

#include <cstdint>
#include <span>

namespace coterie {

/// Whether some plan's slowest rank takes at most `limit` picoseconds, by HiGHS: proven where it says no. Rows may be
/// divided, so that a plan that is as fast may need part of a row.
[[nodiscard]] bool can_reach(const DispatchLayer& layer, const DispatchCosts& costs,
                             std::span<const std::int32_t> counts, std::span<const std::uint8_t> cached, double limit);

}  // namespace coterie
