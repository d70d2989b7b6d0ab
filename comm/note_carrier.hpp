// A communicator that lets what ranks have to tell one another ride in an exchange that takes place anyway.
#pragma once

#include "comm/wrapped_communicator.hpp"

#include <optional>

namespace coterie {

class NoteCarrier final : public WrappedCommunicator {
 public:
  using WrappedCommunicator::WrappedCommunicator;

  /// This rank's note for all ranks; travels with the next exchange in which all take part. Every rank posts one before
  /// the same exchange.
  void post(std::vector<std::byte> note) { posted_ = std::move(note); }
  /// (ranks): the notes posted last, this rank's own included. Where no exchange has carried them, gathers them at
  /// `place`: then, and only then, a collective.
  [[nodiscard]] std::vector<std::vector<std::byte>> take(const Place& place);

  void begin(Outbox outbox, const Place& place) override;
  [[nodiscard]] Inbox finish() override;

 private:
  std::optional<std::vector<std::byte>> posted_;
  bool carries_ = false;                         ///< the exchange under way does
  std::vector<std::vector<std::byte>> arrived_;  ///< (ranks), or none
};

}  // namespace coterie
