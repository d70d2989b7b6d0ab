// What every transport asks of an outbox before it sends anything.
#pragma once

#include "comm/communicator.hpp"

namespace coterie {

/// Throws CommError unless there is a message for each rank, none with memory for a rank that has no part, and all bulk
/// apart, or none.
void check_outbox(const Outbox& outbox, const Place& place, const Communicator& comm);

}  // namespace coterie
