#include "runtime/engine/device_messages.hpp"

#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace coterie {
namespace {

MemorySource source_of(std::function<DeviceMemory(std::size_t bytes)> allocate) {
  struct Pieces {
    std::mutex mutex;
    std::map<std::byte*, DeviceMemory> held;
  };
  const auto pieces = std::make_shared<Pieces>();
  return {[allocate = std::move(allocate), pieces](std::size_t bytes) {
            DeviceMemory memory = allocate(bytes);
            std::byte* const at = memory.get();
            const std::lock_guard lock(pieces->mutex);
            pieces->held[at] = std::move(memory);
            return at;
          },
          [pieces](std::byte* memory) {
            const std::lock_guard lock(pieces->mutex);
            pieces->held.erase(memory);
          }};
}

}  // namespace

DeviceMessages::DeviceMessages(Device& device, Communicator& comm) : device_(device), comm_(comm) {
  if (device.is_the_host()) return;
  MessageMemorySource source;
  source.host = source_of([&device](std::size_t bytes) { return device.allocate_shared(bytes); });
  if (comm.reaches_devices()) {
    source.bulk = source_of([&device](std::size_t bytes) { return device.allocate(bytes); });
    device.while_waiting([&comm] { (void)comm.progress(); });
  }
  source.now = [&device] { return device.stretch(); };
  source.is_done = [&device](std::uint64_t stretch) { return device.is_done(stretch); };
  source.wait = [&device] { device.wait(); };
  source.precede = [&device](CUstream_st* stream) { device.precede(stream); };
  source.follow = [&device](CUstream_st* stream) { device.follow(stream); };
  memory_.emplace(std::move(source));
}

DeviceMessages::~DeviceMessages() {
  device_.while_waiting({});
  if (std::uncaught_exceptions() > 0) comm_.abandon();
}

}  // namespace coterie
