// Which rows go to which rank and where they go on, and how the rows that arrived are grouped by expert. Pure: no
// communication, no arithmetic on rows.
#pragma once

#include "kernels/device.hpp"
#include "runtime/batch.hpp"
#include "runtime/domains.hpp"
#include "runtime/ownership.hpp"

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

struct RowPlan {
  std::vector<RowsFor> to;         ///< (ranks)
  std::vector<std::int32_t> stay;  ///< indices of the rows that go on here, ascending
  bool partial_sums = false;       ///< whether any row has a part computed elsewhere than where it goes on
};

/// Plans the way of this rank's rows through one MoE layer. Prompts come home; so does everything where domains are
/// single ranks. A replicated row stays on every rank of its domain: each computes its own experts for it, and home
/// alone sends it to experts outside the domain.
[[nodiscard]] RowPlan plan_rows(const Batch& batch, std::span<const std::int32_t> rows, const Routing& routing,
                                int layer, const Ownership& ownership, const Domains& domains);

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
