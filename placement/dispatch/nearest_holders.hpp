// To which of the ranks that hold an expert each rank sends its rows.
#pragma once

#include <span>
#include <vector>

namespace coterie {

/// (ranks): to itself, else to one of its own node, else to any. Where several are as near, the senders are dealt out
/// to them evenly, neighbours to the same one. `holders` ascending, not empty.
[[nodiscard]] std::vector<int> nearest_holders(std::span<const int> holders, std::span<const int> node_of_rank);

}  // namespace coterie
