#include "runtime/experts/spill_plan.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>

namespace coterie {

std::vector<std::int32_t> count_choices(std::span<const std::int32_t> choices, int experts) {
  std::vector<std::int32_t> counts(static_cast<std::size_t>(experts), 0);
  for (const std::int32_t expert : choices) {
    if (expert >= experts) {
      throw std::invalid_argument("a row chose expert " + std::to_string(expert) + " of " + std::to_string(experts));
    }
    if (expert >= 0) ++counts[expert];
  }
  return counts;
}

std::vector<int> ranks_of_choices(const DispatchPlan& plan, std::span<const std::int32_t> counts, int experts,
                                  int source, std::span<const std::int32_t> choices) {
  std::vector<std::size_t> part(experts, plan.parts.size());  // of the expert's next row
  for (std::size_t i = plan.parts.size(); i-- > 0;) part[plan.parts[i].expert] = i;
  std::vector<std::int64_t> next(experts, 0);  // among all ranks' rows of the expert
  for (int rank = 0; rank < source; ++rank) {
    for (int e = 0; e < experts; ++e) next[e] += counts[static_cast<std::size_t>(rank) * experts + e];
  }
  std::vector<int> ranks(choices.size(), -1);
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const std::int32_t e = choices[i];
    if (e < 0) continue;
    const auto in_hand = [&] { return part[e] < plan.parts.size() && plan.parts[part[e]].expert == e; };
    while (in_hand() && plan.parts[part[e]].to <= next[e]) ++part[e];
    if (!in_hand() || plan.parts[part[e]].from > next[e]) {
      throw std::invalid_argument("the dispatch plan leaves out row " + std::to_string(next[e]) + " of expert " +
                                  std::to_string(e));
    }
    ranks[i] = plan.parts[part[e]].rank;
    ++next[e];
  }
  return ranks;
}

WeightTransfers transfers_of(const DispatchPlan& plan, int rank) {
  WeightTransfers mine;
  for (const DispatchTransfer& transfer : plan.transfers) {
    if (transfer.from == rank) mine.gives.push_back(transfer);
    if (transfer.to == rank) mine.gets.push_back(transfer);
  }
  std::sort(mine.gives.begin(), mine.gives.end(),
            [](const auto& a, const auto& b) { return std::tie(a.to, a.expert) < std::tie(b.to, b.expert); });
  std::sort(mine.gets.begin(), mine.gets.end(),
            [](const auto& a, const auto& b) { return std::tie(a.from, a.expert) < std::tie(b.from, b.expert); });
  return mine;
}

std::span<const DispatchTransfer> WeightTransfers::gives_to(int rank) const {
  const auto first = std::find_if(gives.begin(), gives.end(), [=](const auto& give) { return give.to == rank; });
  const auto last = std::find_if(first, gives.end(), [=](const auto& give) { return give.to != rank; });
  return {first, last};
}

std::vector<std::int64_t> rows_after(const DispatchPlan& plan, int ranks) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(ranks), 0);
  for (const DispatchPart& part : plan.parts) rows[part.rank] += part.to - part.from;
  return rows;
}

std::vector<std::int64_t> rows_before(const DispatchLayer& layer, std::span<const std::int32_t> counts) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(layer.ranks), 0);
  for (std::size_t i = 0; i < layer.destinations.size(); ++i) rows[layer.destinations[i]] += counts[i];
  return rows;
}

}  // namespace coterie
