// Memory for activations: taken in order, all given back at once.
#pragma once

#include "kernels/device.hpp"

#include <cstddef>
#include <vector>

namespace coterie {

/// Tensors stay valid until the next `reset`. Once it has seen the largest call nothing is allocated any more: `reset`
/// joins what was taken into one piece of that size.
class Scratch {
 public:
  /// The device must outlive this object.
  explicit Scratch(Device& device) : device_(device) {}

  /// Uninitialised, of the device's activation type.
  [[nodiscard]] Tensor take(std::int64_t rows, std::int64_t cols);
  void reset();

 private:
  struct Piece {
    DeviceMemory memory;
    std::size_t bytes = 0;
  };
  Device& device_;
  std::vector<Piece> pieces_;
  std::size_t used_ = 0;  ///< bytes of the last piece
};

}  // namespace coterie
