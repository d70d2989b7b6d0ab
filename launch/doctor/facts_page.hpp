// Facts and findings as text for a terminal.
#pragma once

#include "launch/doctor/diagnose.hpp"

#include <span>
#include <string>

namespace coterie {

/// (ranks): by rank, at least one. The first host in full, others as rows of a table, then what was found.
[[nodiscard]] std::string facts_page(std::span<const RankFacts> ranks, std::span<const Finding> findings);

}  // namespace coterie
