// A communicator that lets what ranks have to tell one another ride in an exchange that takes place anyway.
#pragma once

#include "comm/communicator.hpp"

#include <optional>

namespace coterie {

class NoteCarrier final : public Communicator {
 public:
  /// `inner` must outlive this object.
  explicit NoteCarrier(Communicator& inner) : inner_(inner) {}

  /// This rank's note for all ranks; travels with the next exchange in which all take part. Every rank posts one before
  /// the same exchange.
  void post(std::vector<std::byte> note) { posted_ = std::move(note); }
  /// (ranks): the notes posted last, this rank's own included. Where no exchange has carried them, gathers them at
  /// `place`: then, and only then, a collective.
  [[nodiscard]] std::vector<std::vector<std::byte>> take(const Place& place);

  [[nodiscard]] int rank() const noexcept override { return inner_.rank(); }
  [[nodiscard]] int ranks() const noexcept override { return inner_.ranks(); }
  [[nodiscard]] std::span<const int> node_of_rank() const noexcept override { return inner_.node_of_rank(); }
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                               const Place& place) override {
    return inner_.all_gather(mine, place);
  }
  [[nodiscard]] Inbox exchange(Outbox outbox, const Place& place) override;

 private:
  Communicator& inner_;
  std::optional<std::vector<std::byte>> posted_;
  std::vector<std::vector<std::byte>> arrived_;  ///< (ranks), or none
};

}  // namespace coterie
