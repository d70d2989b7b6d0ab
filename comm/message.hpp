// The message of one exchange: a head that hosts read, and bulk that devices do.
#pragma once

#include "comm/message_memory.hpp"
#include "comm/stamp.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <vector>

namespace coterie {

/// What hosts write and read. Each section starts at a multiple of 64 bytes.
enum class Section : std::uint8_t {
  routes,          ///< of the rows: their tags, experts and gate weights
  sum_labels,      ///< of the partial sums
  freight_labels,  ///< of the K and V rows
  forms,           ///< of the weights: which experts, and how they lie
  note,            ///< what a NoteCarrier adds
};
/// The numbers, which devices write and read; the same.
enum class Bulk : std::uint8_t {
  rows = 5,      ///< token rows, (rows, hidden)
  partial_sums,  ///< (rows, hidden)
  freight,       ///< K and V rows
  weights,       ///< spilled experts; last, for they may arrive later than the rest
};
inline constexpr std::size_t kHostSections = 5;
inline constexpr std::size_t kSections = 9;  ///< of both

using SectionSizes = std::array<std::uint64_t, kSections>;  ///< bytes, by Section and by Bulk

[[nodiscard]] constexpr std::size_t index_of(Section section) noexcept {
  return static_cast<std::size_t>(section);
}
[[nodiscard]] constexpr std::size_t index_of(Bulk section) noexcept {
  return static_cast<std::size_t>(section);
}

struct SectionSize {
  constexpr SectionSize(Section section, std::uint64_t size) noexcept : index(index_of(section)), bytes(size) {}
  constexpr SectionSize(Bulk section, std::uint64_t size) noexcept : index(index_of(section)), bytes(size) {}
  std::size_t index;
  std::uint64_t bytes;
};
/// The other sections are empty.
[[nodiscard]] constexpr SectionSizes sizes_of(std::initializer_list<SectionSize> sections) noexcept {
  SectionSizes sizes{};
  for (const SectionSize& section : sections) sizes[section.index] = section.bytes;
  return sizes;
}

/// What stands at the front of every message.
struct MessageHeader {
  SectionSizes sizes{};
  std::uint64_t flags = 0;  ///< the sender's bits; what they mean is the runtime's business
  Stamp stamp;              ///< the collective it travels in; set by the communicator
};

/// Bytes of a message with sections of these sizes as it travels: of its head (header included), of its bulk, of both.
[[nodiscard]] std::uint64_t head_bytes(const SectionSizes& sizes) noexcept;
[[nodiscard]] std::uint64_t bulk_bytes(const SectionSizes& sizes) noexcept;
[[nodiscard]] std::uint64_t wire_bytes(const SectionSizes& sizes) noexcept;
/// Where in such a message the weights begin.
[[nodiscard]] std::uint64_t weights_at(const SectionSizes& sizes) noexcept;
/// The header at the front of a message that travelled; throws CommError when there are fewer bytes than that.
[[nodiscard]] MessageHeader header_of(std::span<const std::byte> wire);

/// Bytes that a device writes and reads, maybe out of the host's reach: to be handed on, not to be looked at.
class DeviceBytes {
 public:
  DeviceBytes() = default;
  DeviceBytes(std::byte* address, std::size_t size) : address_(address), size_(size) {}

  [[nodiscard]] std::byte* address() const noexcept { return address_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] DeviceBytes subspan(std::size_t first, std::size_t size) const { return {address_ + first, size}; }
  [[nodiscard]] DeviceBytes subspan(std::size_t first) const { return subspan(first, size_ - first); }
  /// For a device's operations, and for who knows that it is the host's memory.
  [[nodiscard]] std::span<std::byte> span() const noexcept { return {address_, size_}; }

 private:
  std::byte* address_ = nullptr;
  std::size_t size_ = 0;
};

/// The head is the header and the host's sections, the bulk the others, each padded to 64 bytes. Where messages are in
/// one piece (MessageMemorySource), the bulk lies behind the head; else in memory of its own. Aligned to 64 bytes.
/// Movable, not copyable. A moved-from or default message has no sections and no memory.
class Message {
 public:
  Message() = default;
  /// Room for sections of these sizes, contents not initialised; the bulk in `bulk` where it is given.
  explicit Message(const SectionSizes& sizes, std::uint64_t flags = 0, MessageMemory bulk = nullptr);
  /// In one piece, to receive into.
  [[nodiscard]] static Message for_receiving(std::uint64_t bytes);

  [[nodiscard]] bool empty() const noexcept { return head_ == nullptr; }  ///< has no memory
  [[nodiscard]] SectionSizes sizes() const noexcept;
  [[nodiscard]] std::span<std::byte> section(Section s) noexcept;
  [[nodiscard]] std::span<const std::byte> section(Section s) const noexcept;
  [[nodiscard]] DeviceBytes section(Bulk s) noexcept;
  [[nodiscard]] std::uint64_t flags() const noexcept;

  [[nodiscard]] std::span<std::byte> head() noexcept;
  [[nodiscard]] DeviceBytes bulk() noexcept;
  [[nodiscard]] bool in_one_piece() const noexcept { return bulk_ == nullptr; }
  [[nodiscard]] bool bulk_is_fresh() const noexcept { return bulk_ != nullptr && bulk_.get_deleter().fresh; }
  /// The whole message as it travels in one piece; empty for a default message.
  [[nodiscard]] std::span<std::byte> wire() noexcept;
  [[nodiscard]] std::span<const std::byte> wire() const noexcept;
  /// The same message with this note. Bulk apart goes along as it is; in one piece it is copied, when it is written.
  [[nodiscard]] Message with_note(std::span<const std::byte> note) &&;
  /// Writes the stamp into the header. The message has memory.
  void mark(const Stamp& stamp) noexcept;

 private:
  MessageMemory head_;  ///< in one piece the bulk too
  MessageMemory bulk_;
};

/// (ranks): one message for each rank, itself included. Default messages travel as a bare header.
using Outbox = std::vector<Message>;
/// (ranks): the message that came from each rank.
using Inbox = std::vector<Message>;

}  // namespace coterie
