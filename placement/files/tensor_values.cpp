#include "placement/files/tensor_values.hpp"

#include "placement/files/half.hpp"
#include "placement/input_error.hpp"

#include <bit>
#include <cstring>
#include <limits>

namespace coterie {
namespace {

template <class From, class To, class Convert>
std::vector<To> converted(const TensorView& tensor, Convert convert) {
  std::vector<To> values(tensor.bytes.size() / sizeof(From));
  for (std::size_t i = 0; i < values.size(); ++i) {
    From value;
    std::memcpy(&value, tensor.bytes.data() + i * sizeof(From), sizeof(From));
    values[i] = convert(value);
  }
  return values;
}

}  // namespace

std::vector<std::int32_t> integers_of(const TensorView& tensor, const std::string& where) {
  const auto narrow = [&](auto value) {
    if (value < std::numeric_limits<std::int32_t>::min() || value > std::numeric_limits<std::int32_t>::max())
      throw bad_field(where, "an element", std::to_string(value), "a number of 32 bits");
    return static_cast<std::int32_t>(value);
  };
  switch (tensor.type) {
    case ElementType::u8:
      return converted<std::uint8_t, std::int32_t>(tensor, narrow);
    case ElementType::i8:
      return converted<std::int8_t, std::int32_t>(tensor, narrow);
    case ElementType::u16:
      return converted<std::uint16_t, std::int32_t>(tensor, narrow);
    case ElementType::i16:
      return converted<std::int16_t, std::int32_t>(tensor, narrow);
    case ElementType::i32:
      return converted<std::int32_t, std::int32_t>(tensor, narrow);
    case ElementType::u32:
      return converted<std::uint32_t, std::int32_t>(tensor, [&](std::uint32_t v) { return narrow(std::int64_t{v}); });
    case ElementType::i64:
      return converted<std::int64_t, std::int32_t>(tensor, narrow);
    default:
      throw bad_field(where, "dtype", name_of(tensor.type), "integers");
  }
}

std::vector<float> floats_of(const TensorView& tensor, const std::string& where) {
  switch (tensor.type) {
    case ElementType::f64:
      return converted<double, float>(tensor, [](double v) { return static_cast<float>(v); });
    case ElementType::f32:
      return converted<float, float>(tensor, [](float v) { return v; });
    case ElementType::f16:
      return converted<std::uint16_t, float>(tensor,
                                             [](std::uint16_t v) { return static_cast<float>(Half::from_bits(v)); });
    case ElementType::bf16:
      return converted<std::uint16_t, float>(
          tensor, [](std::uint16_t v) { return std::bit_cast<float>(static_cast<std::uint32_t>(v) << 16); });
    default:
      throw bad_field(where, "dtype", name_of(tensor.type), "F32, F16, BF16 or F64");
  }
}

}  // namespace coterie
