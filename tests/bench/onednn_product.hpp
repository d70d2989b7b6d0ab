// Products by oneDNN, to compare with.
#pragma once

#include <memory>
#include <vector>

namespace coterie {

/// out (rows, outputs) = in (rows, inputs) * weight^T for one number of rows, one thread.
class OneDnnProduct {
 public:
  OneDnnProduct(int rows, int inputs, int outputs, const std::vector<float>& weight);
  ~OneDnnProduct();
  OneDnnProduct(const OneDnnProduct&) = delete;
  OneDnnProduct& operator=(const OneDnnProduct&) = delete;

  void packed(const float* in, float* out);  ///< weights in the blocked format that it asks for
  void plain(const float* in, float* out);   ///< its sgemm on weights as they are
  /// Weights blocked as bf16; the input, which is f32 elsewhere, is converted first.
  void packed_bf16(const float* in, float* out);

 private:
  struct Primitives;
  std::unique_ptr<Primitives> primitives_;
};

}  // namespace coterie
