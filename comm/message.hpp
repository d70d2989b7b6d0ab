// The message of one exchange: a small header and sections in one contiguous buffer per pair of ranks.
#pragma once

#include "comm/stamp.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace coterie {

/// The kinds of data that share a message. Each starts at a multiple of 64 bytes.
enum class Section : std::uint8_t {
  rows,          ///< token rows, (rows, hidden)
  routes,        ///< for each row: its experts at the receiver and their gate weights
  partial_sums,  ///< (rows, hidden)
  freight,       ///< K and V rows
  note,          ///< what a NoteCarrier adds
  weights,       ///< spilled experts; last, for they may arrive later than the rest
};
inline constexpr std::size_t kSections = 6;

using SectionSizes = std::array<std::uint64_t, kSections>;  ///< bytes, by Section

/// What stands at the front of every message.
struct MessageHeader {
  SectionSizes sizes{};
  std::uint64_t flags = 0;  ///< the sender's bits; what they mean is the runtime's business
  Stamp stamp;              ///< the collective it travels in; set by the communicator
};

/// Bytes of a message with sections of these sizes as it travels, header included.
[[nodiscard]] std::uint64_t wire_bytes(const SectionSizes& sizes) noexcept;
/// Where in such a message the weights begin.
[[nodiscard]] std::uint64_t weights_at(const SectionSizes& sizes) noexcept;
/// The header at the front of a message that travelled; throws CommError when there are fewer bytes than that.
[[nodiscard]] MessageHeader header_of(std::span<const std::byte> wire);

/// Header and sections, laid out as they travel: the header, then each section, all padded to 64 bytes.
/// Memory is aligned to 64 bytes. Movable, not copyable. A moved-from or default message has no sections and no memory.
class Message {
 public:
  Message() = default;
  /// Room for sections of these sizes, contents not initialised.
  explicit Message(const SectionSizes& sizes, std::uint64_t flags = 0);
  /// A buffer of `bytes` to receive into.
  [[nodiscard]] static Message for_receiving(std::uint64_t bytes);

  [[nodiscard]] std::span<std::byte> section(Section s) noexcept;
  [[nodiscard]] std::span<const std::byte> section(Section s) const noexcept;
  [[nodiscard]] std::uint64_t flags() const noexcept;
  /// The whole message as it travels; empty for a default message.
  [[nodiscard]] std::span<std::byte> wire() noexcept { return {memory_.get(), size()}; }
  [[nodiscard]] std::span<const std::byte> wire() const noexcept { return {memory_.get(), size()}; }
  /// Writes the stamp into the header. The message has memory.
  void mark(const Stamp& stamp) noexcept;

 private:
  struct GiveBack {
    std::uint64_t bytes;
    void operator()(std::byte* memory) const noexcept;
  };
  using Memory = std::unique_ptr<std::byte[], GiveBack>;
  [[nodiscard]] static Memory take(std::uint64_t bytes);
  [[nodiscard]] std::uint64_t size() const noexcept { return memory_ ? memory_.get_deleter().bytes : 0; }

  Memory memory_;
};

/// (ranks): one message for each rank, itself included. Default messages travel as a bare header.
using Outbox = std::vector<Message>;
/// (ranks): the message that came from each rank.
using Inbox = std::vector<Message>;

}  // namespace coterie
