#include "runtime/experts/spill_counts.hpp"

#include "runtime/experts/spill_plan.hpp"

#include <algorithm>

namespace coterie {

void SpillCounts::add(const DispatchPlan& plan, const DispatchLayer& layer, std::span<const std::int32_t> counts,
                      int rank) {
  using Stayed = DispatchPlan::Stayed;
  constexpr double kPicosecond = 1e-12;
  std::int64_t& calls = plan.stayed == Stayed::spilled    ? spilled
                        : plan.stayed == Stayed::balanced ? balanced
                                                          : not_worth_it;
  ++calls;
  const auto before = coterie::rows_before(layer, counts);
  const auto after = coterie::rows_after(plan, layer.ranks);
  rows_before += before[rank];
  rows_after += after[rank];
  heaviest_before += *std::max_element(before.begin(), before.end());
  heaviest_after += *std::max_element(after.begin(), after.end());
  for (const DispatchTransfer& transfer : plan.transfers) {
    experts_sent += transfer.from == rank ? 1 : 0;
    experts_taken += transfer.to == rank ? 1 : 0;
  }
  predicted_before += kPicosecond * static_cast<double>(plan.before);
  predicted_after += kPicosecond * static_cast<double>(plan.after);
}

}  // namespace coterie
