// A communicator that counts what passes through another one: for metrics, and for tests that assert how often ranks
// talk.
#pragma once

#include "comm/communicator.hpp"

#include <compare>
#include <map>
#include <string>

namespace coterie {

/// What this rank sent in the collectives of one kind, layer and group.
struct Traffic {
  std::int64_t calls = 0;
  std::int64_t calls_of_all = 0;  ///< of them, those in which all ranks took part
  std::int64_t messages = 0;      ///< non-empty messages to other ranks
  SectionSizes section_bytes{};   ///< to other ranks, by Section (exchanges)
  std::uint64_t bytes = 0;        ///< to other ranks, all of it, headers included
};

class CountingCommunicator final : public Communicator {
 public:
  struct Key {
    std::string kind;        ///< "exchange" or "all_gather"
    std::string collective;  ///< Place::collective
    int layer = -1;
    std::string group{};  ///< Place::group
    friend auto operator<=>(const Key&, const Key&) = default;
  };

  /// `inner` must outlive this object.
  explicit CountingCommunicator(Communicator& inner) : inner_(inner) {}

  [[nodiscard]] const std::map<Key, Traffic>& traffic() const noexcept { return traffic_; }
  /// Calls of a kind over all places.
  [[nodiscard]] std::int64_t calls(const std::string& kind) const;

  [[nodiscard]] int rank() const noexcept override { return inner_.rank(); }
  [[nodiscard]] int ranks() const noexcept override { return inner_.ranks(); }
  [[nodiscard]] std::span<const int> node_of_rank() const noexcept override { return inner_.node_of_rank(); }
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                               const Place& place) override;
  [[nodiscard]] Inbox exchange(Outbox outbox, const Place& place) override;

 private:
  Communicator& inner_;
  std::map<Key, Traffic> traffic_;
};

}  // namespace coterie
