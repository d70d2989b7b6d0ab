#include "comm/outbox.hpp"

#include <string>

namespace coterie {

void check_outbox(const Outbox& outbox, const Place& place, const Communicator& comm) {
  const int ranks = comm.ranks();
  if (outbox.size() != static_cast<std::size_t>(ranks)) {
    throw CommError(to_string(place) + ": " + std::to_string(outbox.size()) + " messages for " + std::to_string(ranks) +
                    " ranks");
  }
  for (int r = 0; r < ranks; ++r) {
    if (r != comm.rank() && bulk_bytes(outbox[r].sizes()) > 0 && outbox[r].in_one_piece() == comm.reaches_devices()) {
      throw CommError(to_string(place) + ": a message's bulk lies " + (comm.reaches_devices() ? "with" : "apart from") +
                      " its head, where the transport doesn't look for it");
    }
    if (place.takes_part(r) || outbox[r].empty()) continue;
    throw CommError(to_string(place) + ": a message for rank " + std::to_string(r) + ", which has no part in it");
  }
}

}  // namespace coterie
