// What the expert that all rows of a layer go through adds to them.
#pragma once

#include "runtime/layers/scratch.hpp"
#include "runtime/layers/weights.hpp"

namespace coterie {

/// `factor` times what came `out` of the shared expert for `in`, by its gate where it has one: in `out` itself, or in
/// memory of `scratch`.
[[nodiscard]] Tensor weigh_shared(Device& device, const MoeWeights& moe, float factor, const Tensor& in,
                                  const Tensor& out, Scratch& scratch);

}  // namespace coterie
