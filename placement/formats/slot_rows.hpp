// Between plans and the slot lists of other systems: what they say and what they can't.
#pragma once

#include "placement/formats/formats.hpp"

#include <string>
#include <vector>

namespace coterie {

/// A row for each layer.
using SlotRows = std::vector<std::vector<int>>;

/// Which layers of the model `count` rows are that stand for MoE layers only: --layer-ids, or those that are not in
/// --dense-layers.
[[nodiscard]] std::vector<int> moe_layers(std::size_t count, const FormatOptions& options, const std::string& where);

/// A plan from rows of slots, each an expert; every rank has as many. A second copy of an expert on a rank, which some
/// systems make, becomes an empty slot and a note.
[[nodiscard]] Plan plan_of_slots(SlotRows slots, std::vector<int> layer_ids, const FormatOptions& options,
                                 const std::string& where);
/// A plan from rows that give each expert's rank.
[[nodiscard]] Plan plan_of_ranks(const SlotRows& ranks, std::vector<int> layer_ids, const FormatOptions& options,
                                 const std::string& where);

/// The plan's slots, none empty: with --fill empty ones get the expert of fewest copies that the rank lacks. Throws
/// InputError that names `system` when there are empty slots and no --fill.
[[nodiscard]] SlotRows full_slots(const Plan& plan, const FormatOptions& options, const std::string& system);
/// (layers, experts): each expert's rank. Throws InputError that names `system` when an expert has replicas.
[[nodiscard]] SlotRows sole_ranks(const Plan& plan, const std::string& system);

}  // namespace coterie
