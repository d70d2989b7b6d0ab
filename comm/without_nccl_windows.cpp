// What a build with an NCCL that has no device API says instead.
#include "comm/slot_exchange.hpp"

namespace coterie {

MadeSlotExchange make_slot_exchange(const SlotExchangeOptions&) {
  return {nullptr, "built with NCCL " + std::to_string(NCCL_MAJOR) + '.' + std::to_string(NCCL_MINOR) +
                       ", expected 2.28 or later"};
}

}  // namespace coterie
