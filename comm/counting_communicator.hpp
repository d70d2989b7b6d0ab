// A communicator that counts what passes through another one: for metrics, and for tests that assert how often ranks
// talk.
#pragma once

#include "comm/wrapped_communicator.hpp"

#include <compare>
#include <map>
#include <string>

namespace coterie {

/// What this rank sent in the collectives of one kind, layer and group.
struct Traffic {
  std::int64_t calls = 0;
  std::int64_t calls_of_all = 0;  ///< of them, those in which all ranks took part
  std::int64_t messages = 0;      ///< non-empty messages to other ranks
  SectionSizes section_bytes{};   ///< to other ranks, by Section and Bulk (exchanges)
  std::uint64_t bytes = 0;        ///< to other ranks, all of it, headers included
};

class CountingCommunicator final : public WrappedCommunicator {
 public:
  struct Key {
    std::string kind;        ///< "exchange" or "all_gather"
    std::string collective;  ///< Place::collective
    int layer = -1;
    std::string group{};  ///< Place::group
    friend auto operator<=>(const Key&, const Key&) = default;
  };

  using WrappedCommunicator::WrappedCommunicator;

  [[nodiscard]] const std::map<Key, Traffic>& traffic() const noexcept { return traffic_; }
  /// Calls of a kind over all places.
  [[nodiscard]] std::int64_t calls(const std::string& kind) const;

  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                               const Place& place) override;
  void begin(Outbox outbox, const Place& place) override;

 private:
  std::map<Key, Traffic> traffic_;
};

}  // namespace coterie
