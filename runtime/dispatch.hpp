// Which rows go to which rank, and how the rows that arrived are grouped by expert. Pure: no communication, no
// arithmetic on rows.
#pragma once

#include "kernels/device.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace coterie {

/// One choice of a row, as it travels behind the row.
struct Route {
  static constexpr std::int32_t kNone = -1;

  std::int32_t expert = kNone;
  float weight = 0;
};

/// What one rank gets: each row once, however many of its experts live there.
struct RowsFor {
  std::vector<std::int32_t> rows;  ///< rows of the sender, ascending
  std::vector<Route> routes;       ///< (rows, top_k) by falling weight; fewer choices are filled up with kNone
};

/// (ranks): the rows of `routing` by destination. destinations: (experts) -> rank.
[[nodiscard]] std::vector<RowsFor> rows_by_rank(const Routing& routing, std::span<const int> destinations, int ranks);

/// Rows that arrived, ordered by expert for one grouped call.
struct GroupedRows {
  std::vector<std::int32_t> arrived;        ///< (pairs): the arrived row of each row of the grouped call
  std::vector<std::int32_t> experts;        ///< (groups): ascending
  std::vector<std::int64_t> first;          ///< (groups + 1): where each group begins among the pairs
  std::vector<std::int64_t> offsets;        ///< (arrived rows + 1): where each row's contributions begin
  std::vector<Contribution> contributions;  ///< (pairs): for each arrived row its pairs, in the order of its routes
};

/// routes: (arrived rows, top_k), of all senders one after the other. Throws std::invalid_argument when an expert is
/// not among [0, experts).
[[nodiscard]] GroupedRows group_by_expert(std::span<const Route> routes, int top_k, int experts);

}  // namespace coterie
