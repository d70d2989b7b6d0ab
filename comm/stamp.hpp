// What a message says about the collective it belongs to, so that ranks that stand at different places find out.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace coterie {

struct Place;

/// The kind of a collective and its Place, as they travel in every message.
struct Stamp {
  enum class Kind : std::uint32_t { none, exchange, all_gather };

  Kind kind = Kind::none;
  std::int32_t layer = -1;
  std::int64_t step = -1;
  std::array<char, 32> collective{};  ///< Place::collective, cut to 31 characters

  Stamp() = default;
  Stamp(Kind the_kind, const Place& place) noexcept;
  friend bool operator==(const Stamp&, const Stamp&) = default;
};

/// "dispatch at layer 3, step 17"
[[nodiscard]] std::string to_string(const Stamp& stamp);
/// "exchange" or "all-gather"
[[nodiscard]] const char* to_string(Stamp::Kind kind) noexcept;

}  // namespace coterie
