// Numbers of a safetensors array, whatever they are stored as.
#pragma once

#include "placement/files/safetensors.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace coterie {

/// Row-major. Throws InputError that names `where` when they are not integers or one doesn't fit 32 bits.
[[nodiscard]] std::vector<std::int32_t> integers_of(const TensorView& tensor, const std::string& where);
/// F64, F32, F16 and BF16; else throws InputError.
[[nodiscard]] std::vector<float> floats_of(const TensorView& tensor, const std::string& where);

}  // namespace coterie
