// Walks the tokens of traces through a placement, layer by layer, and counts what the runtime would send: problem.hpp
// has the rules.
#pragma once

#include "placement/problem.hpp"

#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace coterie {

/// Sums over tokens, times the weights of their traces.
struct Tally {
  double rows = 0;                ///< that leave a rank
  double between = 0;             ///< of them between nodes
  std::vector<double> rank_rows;  ///< (layers, ranks): rows computed; with replicas only
  std::vector<double> pair_rows;  ///< (ranks, ranks): rows from rank to rank; where asked for
  std::vector<double> moves;      ///< (layers - 1, groups, groups): tokens by where they are resident; where asked for

  void add(const Tally& other, double weight);
};

struct WalkOptions {
  bool pairs = false;                           ///< count pair_rows
  std::span<const int> group_of_rank = {};      ///< (ranks), ids from 0: count moves between these groups
  const std::function<bool()>* stop = nullptr;  ///< asked now and then; true ends the walk
};

/// All tokens of the problem's traces, on all cores; the same sums for any number of them. Nothing when it was stopped.
[[nodiscard]] std::optional<Tally> walk(const Problem& problem, const Owners& owners, const WalkOptions& options = {});

}  // namespace coterie
