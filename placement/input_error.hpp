// The error for everything that comes from outside and is wrong: files, options, requests.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace coterie {

/// Bad input. The text is for a user: it names the file, the field, what was found and what was expected.
/// A program that meets one ends with exit code 2.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// `where: field: found …, expected …`, the form of every message about a field of a file.
[[nodiscard]] InputError bad_field(std::string_view where, std::string_view field, std::string_view found,
                                   std::string_view expected);

}  // namespace coterie
