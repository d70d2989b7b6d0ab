// One MoE layer on a rank that has all of its experts and shares its rows with nobody: nothing is sent, and the host
// learns nothing of what the router chose.
#pragma once

#include "runtime/checkpoint/model_spec.hpp"
#include "runtime/layers/phases.hpp"
#include "runtime/layers/scratch.hpp"
#include "runtime/layers/weights.hpp"

#include <memory>

namespace coterie {

class OwnExperts {
 public:
  /// All references outlive this object.
  OwnExperts(const MoeSpec& spec, float residual_scale, const LayerWeights& weights, Device& device,
             PhaseSeconds& phases);

  /// Adds the experts to x, the residual stream, to the bit as MoeLayer does on one rank. `pairs`, in the device's
  /// shared memory: gets the (row, expert) pairs that were computed, there after a wait.
  void add(const Tensor& x, std::int32_t* pairs, Scratch& scratch) const;

 private:
  const MoeSpec& spec_;
  float residual_scale_;
  const LayerWeights& weights_;
  Device& device_;
  PhaseSeconds& phases_;
  std::unique_ptr<ExpertSet> experts_;
};

}  // namespace coterie
