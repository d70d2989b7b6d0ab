#include "comm/faulty_communicator.hpp"

#include <thread>
#include <utility>

namespace coterie {

std::vector<std::vector<std::byte>> FaultyCommunicator::all_gather(std::span<const std::byte> mine,
                                                                   const Place& place) {
  strike(place);
  return inner_.all_gather(mine, place);
}

void FaultyCommunicator::begin(Outbox outbox, const Place& place) {
  strike(place);
  inner_.begin(std::move(outbox), place);
}

void FaultyCommunicator::strike(const Place& place) {
  switch (script_(place)) {
    case Fault::none:
      return;
    case Fault::delay:
      std::this_thread::sleep_for(delay_);
      return;
    case Fault::absent:
      std::this_thread::sleep_for(delay_);
      throw CommError(to_string(place) + ": rank " + std::to_string(rank()) + " stays away");
    case Fault::throws:
      throw CommError(to_string(place) + ": rank " + std::to_string(rank()) + " fails");
  }
}

}  // namespace coterie
