// The transportation problem, solved exactly: items to bins of limited size with the largest total gain.
#pragma once

#include <span>
#include <vector>

namespace coterie {

/// The bin of every item, so that the sum of gain[item * bins + bin] is largest and every bin gets `fewest` to `most`
/// items; such an assignment must exist. Shortest augmenting paths between bins: O(items (bins^2 + items)) in practice.
[[nodiscard]] std::vector<int> best_transport(std::span<const double> gain, int bins, int fewest, int most);

}  // namespace coterie
