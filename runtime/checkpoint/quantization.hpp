// How the weights of a checkpoint are quantised, as its config.json says.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace coterie {

class ConfigFile;

struct Quantization {
  enum class Method {
    none,
    fp8,   ///< F8_E4M3, with a scale for each block or for a matrix: DeepSeek's
    mxfp4  ///< groups of 32 numbers of 4 bits with a power of two each: gpt-oss' experts
  };

  Method method = Method::none;
  std::int64_t block_rows = 0;  ///< fp8: a block's; 0: one scale for a matrix
  std::int64_t block_cols = 0;
  std::vector<std::string> unconverted;  ///< patterns of the modules that are stored as they are

  /// As config.json names it; "none".
  [[nodiscard]] std::string_view name() const noexcept;
  /// Whether a module ("model.layers.0.mlp.experts") is stored in this way.
  [[nodiscard]] bool converts(const std::string& module) const;
};

/// Reads `quantization_config`; none where there is none. Throws InputError for a method that is not supported, with
/// the list of those that are, and for a field that is wrong or not known.
[[nodiscard]] Quantization read_quantization(const ConfigFile& config);

}  // namespace coterie
