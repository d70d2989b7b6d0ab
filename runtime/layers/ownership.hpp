// The placement plan as one rank uses it: which experts it holds, and to which rank the rows of each expert go.
#pragma once

#include "placement/plan.hpp"

#include <span>
#include <string>
#include <vector>

namespace coterie {

class Ownership {
 public:
  /// The plan must be valid and have as many ranks as node_of_rank.
  Ownership(const Plan& plan, int rank, std::span<const int> node_of_rank);

  [[nodiscard]] int ranks() const noexcept { return ranks_; }
  /// Experts of `layer` that this rank holds, ascending.
  [[nodiscard]] const std::vector<int>& held(int layer) const { return held_[layer]; }
  /// (experts): the rank to which `from` sends the rows of each expert of `layer`: of several owners the nearest, as
  /// nearest_holders() says.
  [[nodiscard]] std::span<const int> destinations(int layer, int from) const {
    return std::span(destinations_).subspan((static_cast<std::size_t>(layer) * ranks_ + from) * experts_, experts_);
  }

 private:
  int ranks_;
  std::size_t experts_;
  std::vector<std::vector<int>> held_;
  std::vector<int> destinations_;  ///< (layers, ranks, experts)
};

/// Throws InputError (naming `file`, the field, found and expected) when the plan was made for another model or another
/// number of ranks.
void check_plan(const Plan& plan, const std::string& file, const std::vector<int>& layer_ids, int experts, int ranks);

}  // namespace coterie
