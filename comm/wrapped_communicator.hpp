// What wrappers of a communicator have in common: what they don't change is the inner one's.
#pragma once

#include "comm/communicator.hpp"

namespace coterie {

class WrappedCommunicator : public Communicator {
 public:
  /// `inner` must outlive this object.
  explicit WrappedCommunicator(Communicator& inner) : inner_(inner) {}

  [[nodiscard]] int rank() const noexcept override { return inner_.rank(); }
  [[nodiscard]] int ranks() const noexcept override { return inner_.ranks(); }
  [[nodiscard]] std::span<const int> node_of_rank() const noexcept override { return inner_.node_of_rank(); }
  [[nodiscard]] bool reaches_devices() const noexcept override { return inner_.reaches_devices(); }
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                               const Place& place) override {
    return inner_.all_gather(mine, place);
  }
  void begin(Outbox outbox, const Place& place) override { inner_.begin(std::move(outbox), place); }
  [[nodiscard]] bool progress() override { return inner_.progress(); }
  void abandon() noexcept override { inner_.abandon(); }
  [[nodiscard]] Inbox& wait_for_rows() override { return inner_.wait_for_rows(); }
  [[nodiscard]] Inbox finish() override { return inner_.finish(); }

 protected:
  Communicator& inner_;
};

}  // namespace coterie
