// Messages that a device reads and writes itself.
#pragma once

#include "comm/message_memory.hpp"
#include "kernels/device.hpp"

#include <optional>

namespace coterie {

/// While it lives, messages are in memory that `device` shares with the host, used again when the device is done with
/// what it held. The messages end before the device does.
class DeviceMessages {
 public:
  explicit DeviceMessages(Device& device);

 private:
  std::optional<MessageMemoryFrom> memory_;
};

}  // namespace coterie
