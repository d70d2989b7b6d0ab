// A counting sort of choices by their experts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

struct ExpertOrder {
  std::vector<std::int32_t> first;  ///< (experts + 1): where each expert's choices begin; the last: how many there are
  std::vector<std::int32_t> place;  ///< (choices): where each is among them; where there is no expert: -1
};

/// `chosen`: the expert of each choice, or -1 for none. Choices of one expert keep their order. Throws
/// std::invalid_argument when an expert is not among [0, experts).
[[nodiscard]] ExpertOrder order_by_expert(std::span<const std::int32_t> chosen, int experts);

}  // namespace coterie
