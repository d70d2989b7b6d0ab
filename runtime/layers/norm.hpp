// A norm with its weights on the device.
#pragma once

#include "kernels/device.hpp"

namespace coterie {

/// RMSNorm, or LayerNorm when `centred`; empty where a model has none.
struct Norm {
  DeviceArray weight;  ///< (1, width)
  DeviceArray bias;    ///< of a centred one: empty, or (1, width)
  float epsilon = 0;
  bool centred = false;

  [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(weight); }
  /// `out` may be `in`. An RMSNorm narrower than the rows goes over each group of so many columns (heads).
  void apply(Device& device, const Tensor& in, const Tensor& out) const {
    if (centred) {
      device.layer_norm(in, weight.view, bias.view, epsilon, out);
    } else {
      device.rms_norm(in, weight.view, epsilon, out);
    }
  }
};

}  // namespace coterie
