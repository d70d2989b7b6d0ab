// Traces of any size to measure with.
#pragma once

#include <cstdint>
#include <filesystem>

namespace coterie {

struct SyntheticTrace {
  std::int64_t tokens = 1'000'000;
  int layers = 58;
  int experts = 256;
  int top_k = 8;
  bool weights = false;  ///< gate weights, too: descending, their sum is 1
  double strays = 0.3;   ///< share of the choices that follow from nothing
  unsigned seed = 1;
};

/// Writes a trace with structure: at every layer the experts lie around a circle, in an order of the layer's own; a
/// token has a place there, near that of its sequence, which moves a little from layer to layer, and chooses experts
/// around it.
void write_synthetic_trace(const std::filesystem::path& path, const SyntheticTrace& shape);

}  // namespace coterie
