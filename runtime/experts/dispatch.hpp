// Which rows go to which rank and where they go on, and how the rows that arrived are grouped by expert. Pure: no
// communication, no arithmetic on rows.
#pragma once

#include "kernels/device.hpp"
#include "runtime/layers/batch.hpp"
#include "runtime/layers/domains.hpp"
#include "runtime/layers/ownership.hpp"

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace coterie {

/// One choice of a row, as it travels behind the row.
struct Route {
  static constexpr std::int32_t kNone = -1;
  static constexpr std::int16_t kWhole = -1;

  std::int32_t expert = kNone;
  float weight = 0;
  std::int16_t owner = 0;       ///< the rank to whose partial sum it belongs, wherever it is computed
  std::int16_t place = kWhole;  ///< among the row's choices, where not all of that sum is computed on one rank
};

/// Which row it is, as it travels with the row.
struct RowTag {
  static constexpr std::int32_t kEverywhere = -1;  ///< all ranks of the sender's domain want its partial sums

  std::int32_t row = 0;      ///< of the batch of the sender's domain
  std::int32_t landing = 0;  ///< the rank where it goes on
};

/// What one rank gets: each row once, however many of its experts live there.
struct RowsFor {
  std::vector<std::int32_t> rows;  ///< indices among the sender's rows, ascending
  std::vector<RowTag> tags;        ///< (rows)
  std::vector<Route> routes;       ///< (rows, top_k) by falling weight; fewer choices are filled up with kNone
};

/// What a rank computes for a row.
struct Share {
  int rank = 0;
  float weight = 0;  ///< sum of the gate weights of the row's experts there
};

/// The landing rule: of the ranks that compute for a row and are in its domain, the one with the largest share; ties:
/// the lower rank. Home when none of them is in the domain.
[[nodiscard]] int landing_rank(std::span<const Share> shares, const Domains& domains, int home);

/// Which partial sum of a row, as it travels with the sum.
struct SumLabel {
  static constexpr std::int16_t kShared = std::numeric_limits<std::int16_t>::max();  ///< owner: the shared expert

  std::int32_t row = 0;                ///< of the batch
  std::int16_t owner = 0;              ///< sums are added in the order of their owners
  std::int16_t place = Route::kWhole;  ///< else: an expert's output alone, to be weighed, in this place of the sum
  float weight = 1;
};

/// The ranks of all choices, (rows, top_k) each, -1 where a row has none.
struct ChoiceRanks {
  std::vector<int> owner;     ///< to whose sum it belongs: of replicas the one that home sends to, wherever the row is
  std::vector<int> computes;  ///< that the placement says to the rank where the row is, unless it is spilled
};
/// With nothing spilled.
[[nodiscard]] ChoiceRanks owners_of(const Batch& batch, std::span<const std::int32_t> rows, const Routing& routing,
                                    int layer, const Ownership& ownership, const Domains& domains);

struct RowPlan {
  std::vector<RowsFor> to;         ///< (ranks)
  std::vector<std::int32_t> stay;  ///< indices of the rows that go on here, ascending
  bool partial_sums = false;       ///< whether any row has a part computed elsewhere than where it goes on
};

/// Plans the way of this rank's rows through one MoE layer. Prompts come home; so does everything where domains are
/// single ranks. A replicated row stays on every rank of its domain: each computes its own experts for it, and home
/// alone sends it to experts outside the domain.
[[nodiscard]] RowPlan plan_rows(const Batch& batch, std::span<const std::int32_t> rows, const Routing& routing,
                                const ChoiceRanks& ranks, const Domains& domains);

/// The ranks, ascending and this one among them, that can have anything for one another at a layer: those of a domain,
/// those of which one holds experts for the other by the plan, and whoever is joined to them so.
[[nodiscard]] std::vector<int> joined_ranks(int layer, const Ownership& ownership, const Domains& domains);

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
