// Messages that a device reads and writes itself, and the order of its work and the exchanges'.
#pragma once

#include "comm/communicator.hpp"
#include "comm/message_memory.hpp"
#include "kernels/device.hpp"

#include <optional>

namespace coterie {

/// While it lives, messages are in memory of `device`: the bulk in its own where `comm` reaches that, the rest in what
/// it shares with the host. It is used again when the device is done with what it held. While the host waits for the
/// device it watches over exchanges of `comm` that the device waits for. The messages end before either does.
class DeviceMessages {
 public:
  DeviceMessages(Device& device, Communicator& comm);
  /// By an exception: the device waits for no exchange any longer.
  ~DeviceMessages();
  DeviceMessages(const DeviceMessages&) = delete;
  DeviceMessages& operator=(const DeviceMessages&) = delete;

 private:
  Device& device_;
  Communicator& comm_;
  std::optional<MessageMemoryFrom> memory_;
};

}  // namespace coterie
