#include "runtime/experts/shared_expert.hpp"

namespace coterie {

Tensor weigh_shared(Device& device, const MoeWeights& moe, float factor, const Tensor& in, const Tensor& out,
                    Scratch& scratch) {
  if (moe.shared_gate) {
    const Tensor gated = scratch.take(out.rows, out.cols);
    device.gate(in, *moe.shared_gate, factor, out, gated);
    return gated;
  }
  if (factor != 1) device.scale(out, factor);
  return out;
}

}  // namespace coterie
