// An exchange under way, and what has come of it.
#pragma once

#include "comm/communicator.hpp"

#include <memory>
#include <utility>

namespace coterie {

/// Begun and finished once, on a communicator that outlives it. Destroyed unfinished, it is abandoned, and its
/// communicator can't go on.
class Exchange {
 public:
  Exchange() = default;
  /// Collective; waits for nobody.
  Exchange(Communicator& comm, Outbox outbox, const Place& place) : comm_(&comm) {
    comm.begin(std::move(outbox), place);
  }
  /// Nothing travels: this rank's messages to itself.
  explicit Exchange(Outbox outbox) : inbox_(std::move(outbox)) {}

  /// As the communicator's: what all of these return stays valid.
  [[nodiscard]] bool progress() { return comm_ == nullptr || comm_->progress(); }
  [[nodiscard]] Inbox& rows() { return comm_ == nullptr ? inbox_ : comm_->wait_for_rows(); }
  Inbox& all() {
    if (comm_ == nullptr) return inbox_;
    inbox_ = comm_->finish();
    (void)comm_.release();
    return inbox_;
  }

 private:
  struct Abandon {
    void operator()(Communicator* comm) const noexcept { comm->abandon(); }
  };
  std::unique_ptr<Communicator, Abandon> comm_;  ///< none: all is here
  Inbox inbox_;
};

}  // namespace coterie
