// An objective as a chain: what a layer's state costs by itself, and what two neighbouring layers' states cost
// together.
#pragma once

#include "placement/problem.hpp"
#include "placement/search/label_matching.hpp"
#include "placement/solvers/layer_states.hpp"

#include <memory>
#include <span>
#include <string>
#include <vector>

namespace coterie {

/// An objective that falls apart into layers and pairs of neighbouring layers. Larger is better throughout.
///
/// The pair of layers (l, l + 1) is described by items: sets of experts of layer l + 1, each with a weight for every
/// rank of layer l, the weight that arrives at the item from there. It counts once for every rank that holds some of
/// the item's experts, times `kept()` for the distance of the two ranks.
class LayerCosts {
 public:
  virtual ~LayerCosts() = default;

  /// What the state of a layer gains by itself.
  [[nodiscard]] virtual double own(int layer, const LayerState& state) const = 0;
  /// False: layers are independent of each other and have no items.
  [[nodiscard]] virtual bool coupled() const = 0;
  [[nodiscard]] virtual Kept kept() const = 0;
  /// (items): experts of layer + 1.
  [[nodiscard]] virtual const std::vector<std::vector<int>>& items(int layer) const = 0;
  /// (items, ranks) += the weight that comes from each rank when `layer` is in `state`.
  virtual void arrivals(int layer, const LayerState& state, std::span<double> weight) const = 0;
  /// Steps of work that `arrivals` takes.
  [[nodiscard]] virtual double arrival_steps(int layer) const = 0;
};

/// Empty, or why the problem's objective does not fall apart so: for a user.
[[nodiscard]] std::string why_not_layered(const Problem& problem);
/// The problem's objective; why_not_layered must be empty. The problem must outlive it.
[[nodiscard]] std::unique_ptr<LayerCosts> make_layer_costs(const Problem& problem);

}  // namespace coterie
