#include "placement/input_error.hpp"

namespace coterie {

InputError bad_field(std::string_view where, std::string_view field, std::string_view found,
                     std::string_view expected) {
  std::string text(where);
  text.append(": ").append(field).append(": found ").append(found).append(", expected ").append(expected);
  return InputError(text);
}

}  // namespace coterie
