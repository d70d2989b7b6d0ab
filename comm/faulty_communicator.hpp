// A communicator that injects faults into another one, for tests of time-outs and of what the ranks say then.
#pragma once

#include "comm/wrapped_communicator.hpp"

#include <functional>

namespace coterie {

enum class Fault {
  none,
  delay,   ///< this rank sleeps before it takes part
  absent,  ///< this rank never takes part: it sleeps as long, then throws CommError
  throws,  ///< this rank throws CommError at once
};

class FaultyCommunicator final : public WrappedCommunicator {
 public:
  /// Asked before every collective of this rank.
  using Script = std::function<Fault(const Place&)>;
  /// `inner` must outlive this object. A rank that is to be absent until the others have given up needs a `delay`
  /// longer than their time limit and the few seconds in which they ask one another where they stand.
  FaultyCommunicator(Communicator& inner, Script script, std::chrono::duration<double> delay)
      : WrappedCommunicator(inner), script_(std::move(script)), delay_(delay) {}

  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                               const Place& place) override;
  void begin(Outbox outbox, const Place& place) override;

 private:
  void strike(const Place& place);

  Script script_;
  std::chrono::duration<double> delay_;
};

}  // namespace coterie
