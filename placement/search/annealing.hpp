// Simulated annealing and descent by exchanges of two experts of a layer, for any search model.
#pragma once

#include "placement/search/ledger.hpp"
#include "placement/search/search_model.hpp"
#include "placement/splitmix.hpp"

#include <cstdint>
#include <functional>
#include <vector>

namespace coterie {

/// The parts of a search that belong together. The ledger must have been restarted with the model's assignment.
/// Even layers have their turn, then odd ones; the outcome doesn't depend on the number of threads.
struct Search {
  SearchModel& model;
  Ledger& ledger;
  const std::vector<int>& layers;     ///< that may change, ascending
  double penalty = 0;                 ///< cost of a row above the load limit
  const std::function<bool()>& stop;  ///< asked now and then; true ends the search where it stands
  int threads = 1;  ///< more only for models that allow exchanges of several layers at once; 0: all cores
};

struct Schedule {
  std::int64_t proposals = 0;
  double hot = 0;   ///< temperature at the start, in the model's unit of cost
  double cold = 0;  ///< and at the end; between them it falls geometrically
};

/// Mean size of the change of cost that a random exchange makes, and of the rows that it shifts between ranks.
struct Typical {
  double cost = 0;
  double rows = 0;
};
[[nodiscard]] Typical typical_change(const Search& search, SplitMix& random, int samples);

void anneal(const Search& search, const Schedule& schedule, SplitMix& random);

/// Exchanges and moves until none makes the cost (with the penalty) smaller, or the search is stopped.
void descend(const Search& search);

/// The exchanges of a layer that are worth trying, from the model's assignment.
using Candidates = std::function<std::vector<Exchange>(int layer)>;
/// The same among the candidates of each layer, where trying all would take too long.
void descend(const Search& search, const Candidates& candidates);

/// Tries to bring every rank under its load limit, at a price in cost; true when all are.
[[nodiscard]] bool repair(const Search& search, SplitMix& random, double temperature);

}  // namespace coterie
