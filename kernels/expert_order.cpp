#include "kernels/expert_order.hpp"

#include <numeric>
#include <stdexcept>
#include <string>

namespace coterie {

ExpertOrder order_by_expert(std::span<const std::int32_t> chosen, int experts) {
  ExpertOrder order;
  order.first.assign(static_cast<std::size_t>(experts) + 1, 0);
  for (const std::int32_t expert : chosen) {
    if (expert == -1) continue;
    if (expert < 0 || expert >= experts) {
      throw std::invalid_argument("a row is for expert " + std::to_string(expert) + " of " + std::to_string(experts));
    }
    ++order.first[static_cast<std::size_t>(expert) + 1];
  }
  std::partial_sum(order.first.begin(), order.first.end(), order.first.begin());
  std::vector<std::int32_t> next(order.first.begin(), order.first.end() - 1);
  order.place.reserve(chosen.size());
  for (const std::int32_t expert : chosen) {
    order.place.push_back(expert < 0 ? -1 : next[static_cast<std::size_t>(expert)]++);
  }
  return order;
}

}  // namespace coterie
