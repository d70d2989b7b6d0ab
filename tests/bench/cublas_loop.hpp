// The products of a grouped call by cuBLAS, to compare with.
#pragma once

#include "kernels/device.hpp"

#include <memory>
#include <span>

namespace coterie {

class CublasLoop {
 public:
  CublasLoop();
  ~CublasLoop();
  CublasLoop(const CublasLoop&) = delete;
  CublasLoop& operator=(const CublasLoop&) = delete;

  /// Both products of each group in bf16, without what is between them: `hidden` (rows, 2 * intermediate) is written
  /// and the left half of its columns read. Weights are row-major. Enqueues on a stream of its own.
  void experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& hidden, const Tensor& out);
  /// The same as two grouped calls. Whether this cuBLAS has them.
  bool grouped_experts(const Tensor& in, std::span<const ExpertRows> groups, const Tensor& hidden, const Tensor& out);
  /// Seconds of one dense product of three arrays (size, size) in bf16.
  [[nodiscard]] double dense_seconds(const Tensor& a, const Tensor& b, const Tensor& out);
  void wait();
  /// Seconds of a copy of `bytes` inside the device's memory.
  [[nodiscard]] double copy_seconds(std::byte* to, const std::byte* from, std::size_t bytes);
  /// Reads and writes so much other memory that no cache holds what was used before.
  void forget();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace coterie
