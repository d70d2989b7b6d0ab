// The GPUs that CUDA finds, as devices. A build without CUDA finds none.
#pragma once

#include "kernels/device.hpp"

#include <memory>
#include <string>
#include <vector>

namespace coterie {

/// Their UUIDs; none where there is no GPU or no driver.
[[nodiscard]] std::vector<std::string> cuda_devices();
/// What multiplies experts' rows.
enum class ExpertKernels {
  best,   ///< wgmma where the GPU and the types allow it, else mma
  mma,    ///< any GPU, any types
  wgmma,  ///< compute capability 9.0, all in bf16
  /// cuBLAS' grouped products for calls of several experts, where prepare_experts() finds them faster than mma; weights
  /// and activations of one type. What experts() gives for a row may then depend, in its last bits, on the rows beside
  /// it, and on what was found faster.
  cublas,
};
/// On GPU `index` of those. Activations in bf16 take weights in bf16. Throws std::runtime_error with what CUDA says.
[[nodiscard]] std::unique_ptr<Device> make_cuda_device(const DeviceOptions& options, int index,
                                                       ExpertKernels experts = ExpertKernels::best);

}  // namespace coterie
