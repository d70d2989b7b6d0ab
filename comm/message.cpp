#include "comm/message.hpp"

#include "comm/communicator.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

namespace coterie {
namespace {

constexpr std::uint64_t kAlign = 64;

constexpr std::uint64_t padded(std::uint64_t bytes) {
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

std::uint64_t padded_sum(const SectionSizes& sizes, std::size_t first, std::size_t last) noexcept {
  std::uint64_t bytes = 0;
  for (std::size_t s = first; s < last; ++s) bytes += padded(sizes[s]);
  return bytes;
}

MessageHeader read_header(const std::byte* memory) noexcept {
  MessageHeader header;
  std::memcpy(&header, memory, sizeof header);
  return header;
}

}  // namespace

std::uint64_t head_bytes(const SectionSizes& sizes) noexcept {
  return padded(sizeof(MessageHeader)) + padded_sum(sizes, 0, kHostSections);
}

std::uint64_t bulk_bytes(const SectionSizes& sizes) noexcept {
  return padded_sum(sizes, kHostSections, kSections);
}

std::uint64_t wire_bytes(const SectionSizes& sizes) noexcept {
  return head_bytes(sizes) + bulk_bytes(sizes);
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

Message::Message(const SectionSizes& sizes, std::uint64_t flags, MessageMemory bulk) : bulk_(std::move(bulk)) {
  const std::uint64_t bytes = bulk_bytes(sizes);
  if (bytes > 0 && !bulk_) bulk_ = take_bulk_memory(bytes);
  head_ = take_message_memory(head_bytes(sizes) + (bulk_ ? 0 : bytes));
  const MessageHeader header{sizes, flags, {}};
  std::memcpy(head_.get(), &header, sizeof header);
}

Message Message::for_receiving(std::uint64_t bytes) {
  Message message;
  message.head_ = take_message_memory(bytes);
  return message;
}

Message Message::with_note(std::span<const std::byte> note) && {
  MessageHeader header{sizes(), flags(), {}};
  header.sizes[index_of(Section::note)] = note.size();
  const DeviceBytes bulk = this->bulk();
  Message out;
  out.bulk_ = std::move(bulk_);
  const bool copies = !out.bulk_ && !bulk.empty();
  out.head_ = take_message_memory(head_bytes(header.sizes) + (copies ? bulk.size() : 0));
  std::memcpy(out.head_.get(), &header, sizeof header);
  for (std::size_t s = 0; s < index_of(Section::note); ++s) {
    const auto from = section(static_cast<Section>(s));
    std::ranges::copy(from, out.section(static_cast<Section>(s)).begin());
  }
  std::ranges::copy(note, out.section(Section::note).begin());
  if (copies) {
    wait_for_message_work();
    std::memcpy(out.bulk().address(), bulk.address(), bulk.size());
  }
  return out;
}

SectionSizes Message::sizes() const noexcept {
  return empty() ? SectionSizes{} : read_header(head_.get()).sizes;
}

std::span<const std::byte> Message::section(Section s) const noexcept {
  if (empty()) return {};
  const SectionSizes all = sizes();
  const std::uint64_t first = padded(sizeof(MessageHeader)) + padded_sum(all, 0, index_of(s));
  return {head_.get() + first, all[index_of(s)]};
}

std::span<std::byte> Message::section(Section s) noexcept {
  const auto view = std::as_const(*this).section(s);
  return {const_cast<std::byte*>(view.data()), view.size()};
}

DeviceBytes Message::section(Bulk s) noexcept {
  if (empty()) return {};
  const SectionSizes all = sizes();
  return bulk().subspan(padded_sum(all, kHostSections, index_of(s)), all[index_of(s)]);
}

std::span<std::byte> Message::head() noexcept {
  return {head_.get(), empty() ? 0 : head_bytes(sizes())};
}

DeviceBytes Message::bulk() noexcept {
  if (empty()) return {};
  const SectionSizes all = sizes();
  return {bulk_ ? bulk_.get() : head_.get() + head_bytes(all), bulk_bytes(all)};
}

std::span<std::byte> Message::wire() noexcept {
  return {head_.get(), empty() ? 0 : head_.get_deleter().bytes};
}

std::span<const std::byte> Message::wire() const noexcept {
  return {head_.get(), empty() ? 0 : head_.get_deleter().bytes};
}

std::uint64_t Message::flags() const noexcept {
  return empty() ? 0 : read_header(head_.get()).flags;
}

void Message::mark(const Stamp& stamp) noexcept {
  std::memcpy(head_.get() + offsetof(MessageHeader, stamp), &stamp, sizeof stamp);
}

}  // namespace coterie
