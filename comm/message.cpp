#include "comm/message.hpp"

#include "comm/communicator.hpp"
#include "comm/message_memory.hpp"

#include <cstddef>
#include <cstring>
#include <utility>

namespace coterie {
namespace {

constexpr std::uint64_t kAlign = 64;

constexpr std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

MessageHeader read_header(const std::byte* memory) noexcept {
  MessageHeader header;
  std::memcpy(&header, memory, sizeof header);
  return header;
}

}  // namespace

std::uint64_t wire_bytes(const SectionSizes& sizes) noexcept {
  std::uint64_t bytes = padded(sizeof(MessageHeader));
  for (const std::uint64_t s : sizes) bytes += padded(s);
  return bytes;
}

std::uint64_t weights_at(const SectionSizes& sizes) noexcept {
  return wire_bytes(sizes) - padded(sizes.back());
}

MessageHeader header_of(std::span<const std::byte> wire) {
  if (wire.size() < sizeof(MessageHeader)) {
    throw CommError("a message of " + std::to_string(wire.size()) + " bytes is shorter than its header");
  }
  return read_header(wire.data());
}

Message::Message(const SectionSizes& sizes, std::uint64_t flags) : memory_(take(wire_bytes(sizes))) {
  const MessageHeader header{sizes, flags, {}};
  std::memcpy(memory_.get(), &header, sizeof header);
}

void Message::GiveBack::operator()(std::byte* memory) const noexcept {
  give_message_memory(memory, bytes);
}

Message::Memory Message::take(std::uint64_t bytes) {
  return {take_message_memory(bytes), GiveBack{bytes}};
}

Message Message::for_receiving(std::uint64_t bytes) {
  Message message;
  message.memory_ = take(bytes);
  return message;
}

std::span<const std::byte> Message::section(Section s) const noexcept {
  if (!memory_) return {};
  const MessageHeader header = read_header(memory_.get());
  std::uint64_t first = padded(sizeof header);
  for (std::size_t i = 0; i < static_cast<std::size_t>(s); ++i) first += padded(header.sizes[i]);
  return {memory_.get() + first, header.sizes[static_cast<std::size_t>(s)]};
}

std::span<std::byte> Message::section(Section s) noexcept {
  const auto view = std::as_const(*this).section(s);
  return {const_cast<std::byte*>(view.data()), view.size()};
}

std::uint64_t Message::flags() const noexcept {
  return memory_ ? read_header(memory_.get()).flags : 0;
}

void Message::mark(const Stamp& stamp) noexcept {
  std::memcpy(memory_.get() + offsetof(MessageHeader, stamp), &stamp, sizeof stamp);
}

}  // namespace coterie
