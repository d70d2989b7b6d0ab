#include "comm/outbox.hpp"

#include <string>

namespace coterie {

void check_outbox(const Outbox& outbox, const Place& place, int ranks) {
  if (outbox.size() != static_cast<std::size_t>(ranks)) {
    throw CommError(to_string(place) + ": " + std::to_string(outbox.size()) + " messages for " + std::to_string(ranks) +
                    " ranks");
  }
  for (int r = 0; r < ranks; ++r) {
    if (place.takes_part(r) || outbox[r].empty()) continue;
    throw CommError(to_string(place) + ": a message for rank " + std::to_string(r) + ", which has no part in it");
  }
}

}  // namespace coterie
