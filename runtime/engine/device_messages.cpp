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
  MessageMemorySource source;
  source.host = {[&device, pieces](std::size_t bytes) {
                   DeviceMemory memory = device.allocate_shared(bytes);
                   std::byte* const at = memory.get();
                   const std::lock_guard lock(pieces->mutex);
                   pieces->held[at] = std::move(memory);
                   return at;
                 },
                 [pieces](std::byte* memory) {
                   const std::lock_guard lock(pieces->mutex);
                   pieces->held.erase(memory);
                 }};
  source.now = [&device] { return device.stretch(); };
  source.is_done = [&device](std::uint64_t when) { return device.is_done(when); };
  source.wait = [&device] { device.wait(); };
  memory_.emplace(std::move(source));
}

}  // namespace coterie
