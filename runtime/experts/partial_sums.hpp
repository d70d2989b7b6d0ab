// What the experts of one rank add to rows: how it is summed, told and added, in an order that doesn't depend on where
// anything was computed.
#pragma once

#include "runtime/experts/dispatch.hpp"
#include "runtime/layers/batch.hpp"
#include "runtime/layers/labelled_rows.hpp"
#include "runtime/layers/scratch.hpp"

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace coterie {

/// Sums, and of which rows. Those of the shared expert come last.
struct PartialSums {
  std::vector<SumLabel> labels;
  Tensor sums;
};

/// As they lie in a message.
using LabelledSums = RowsLabelledBy<SumLabel>;

/// Sums that one rank wants of the outputs of a grouped call.
struct WantedSums {
  std::vector<SumLabel> labels;
  std::vector<std::int64_t> offsets{0};  ///< (labels + 1): among the contributions
  std::vector<Contribution> contributions;

  /// Those of a row of the batch: one for each owner among its routes; of an owner whose sum is computed in several
  /// places, one for each route, not yet weighed. `contributions` are those of the routes that have an expert.
  void add(std::int32_t row, std::span<const Route> routes, std::span<const Contribution> of_routes);
};

/// Adds sums to rows: for each row those of each owner together in the order of their places, then these in the order
/// of the owners. Throws CommError when one is of a row that isn't there. `layer` is for its text.
void add_sums(std::span<const PartialSums> sums, const Resident& to, int layer, Device& device, Scratch& scratch);

}  // namespace coterie
