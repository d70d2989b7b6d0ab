// What ranks agree on before any of them starts to work, and how what they hold comes together at the end.
#pragma once

#include "comm/communicator.hpp"
#include "placement/input_error.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace coterie {

/// Bad input that every rank knows of: each may end by itself, and one of them tells the user.
class AgreedError : public InputError {
 public:
  using InputError::InputError;
};

/// Runs `body` on every rank; when it throws InputError on any, throws AgreedError with the lowest such rank's text on
/// all. Collective.
void all_or_none(Communicator& comm, const std::function<void()>& body);

/// Throws AgreedError on every rank unless all ranks pass the same values; the text names what differs and between
/// which ranks. facts: (name, value) pairs with the same names everywhere. Collective.
void expect_same(Communicator& comm, const std::vector<std::pair<std::string, std::string>>& facts);

/// The smallest of the ranks' values. Collective.
[[nodiscard]] std::int64_t smallest(Communicator& comm, std::int64_t mine);

/// Every rank's bytes on rank 0, by rank; nothing elsewhere. Collective; one exchange.
[[nodiscard]] std::vector<std::vector<std::byte>> gather_on_first(Communicator& comm, std::span<const std::byte> mine,
                                                                  const Place& place);

}  // namespace coterie
