// Evaluates the linear lower bounds of tokens' rows that a certificate file chose, with code of its own.
#pragma once

#include "placement/check/recount.hpp"
#include "placement/files/safetensors.hpp"

#include <span>
#include <vector>

namespace coterie {

/// Sum over tokens and layers of the chosen bounds: `constant`, less the weights of all pairs that share a rank or a
/// node.
struct CheckedRows {
  double constant = 0;
  std::vector<std::vector<double>> rank_pairs, node_pairs;  ///< (layers)(experts, experts), symmetric
};

/// How the rows of a layer are counted: placement/bound/bounds.md.
enum class CheckedRule { onward, first, home, node };
[[nodiscard]] CheckedRule checked_rule(const Topology& topology, const RecountRules& rules, bool replicas, int layer);
/// Whether a token goes on from the rank where it landed.
[[nodiscard]] bool goes_on(const Topology& topology, const RecountRules& rules);

/// Priced rows of a token with `experts` experts, at least, plus `rank_price` for every pair of them that shares a rank
/// and `node_price` for every pair that shares a node: the least over all ways to spread them over ranks of `capacity`
/// slots.
[[nodiscard]] double least_rows(const Topology& topology, const RecountRules& rules, CheckedRule rule, int capacity,
                                int experts, double rank_price, double node_price);

/// From the arrays first_facets, onward_facets, members and facet. Throws InputError where they are malformed.
[[nodiscard]] CheckedRows checked_rows(const SafetensorsFile& file, const Plan& plan,
                                       std::span<const WeightedTrace> traces, const RecountRules& rules, int capacity,
                                       bool replicas);

}  // namespace coterie
