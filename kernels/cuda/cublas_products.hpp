// Grouped products by cuBLAS. It takes its kernels by the shapes of all products of a call, so that the last bits of a
// row's result may depend on the rows beside it.
#pragma once

#include "kernels/cuda/cuda_device.hpp"

#include <memory>
#include <span>

namespace coterie {

class CublasProducts {
 public:
  static constexpr std::size_t workspace_bytes = std::size_t{32} << 20;  // what cuBLAS recommends for Hopper

  /// With a workspace in the device's memory. Throws std::runtime_error where there is no cuBLAS of 12.5
  /// or later.
  explicit CublasProducts(DeviceMemory workspace);
  ~CublasProducts();
  CublasProducts(const CublasProducts&) = delete;
  CublasProducts& operator=(const CublasProducts&) = delete;

  /// All of one type, none without rows. `addresses`, in the device's memory: of the weights, inputs and outputs.
  void multiply(std::span<const Product> products, void* const* addresses, cudaStream_t stream);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coterie
