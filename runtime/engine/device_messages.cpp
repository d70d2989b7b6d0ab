#include "runtime/engine/device_messages.hpp"

#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace coterie {

DeviceMessages::DeviceMessages(Device& device) {
  if (device.is_the_host()) return;
  struct Pieces {
    std::mutex mutex;
    std::map<std::byte*, DeviceMemory> held;
  };
  const auto pieces = std::make_shared<Pieces>();
  memory_.emplace(MessageMemorySource{[&device, pieces](std::size_t bytes) {
                                        DeviceMemory memory = device.allocate_shared(bytes);
                                        std::byte* const at = memory.get();
                                        const std::lock_guard lock(pieces->mutex);
                                        pieces->held[at] = std::move(memory);
                                        return at;
                                      },
                                      [pieces](std::byte* memory) {
                                        const std::lock_guard lock(pieces->mutex);
                                        pieces->held.erase(memory);
                                      },
                                      0, [&device] { return device.waits(); },
                                      [&device](std::uint64_t when) { return when < device.waits(); }});
}

}  // namespace coterie
