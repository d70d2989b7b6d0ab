#include "comm/counting_communicator.hpp"

#include <algorithm>
#include <utility>

namespace coterie {

std::int64_t CountingCommunicator::calls(const std::string& kind) const {
  std::int64_t calls = 0;
  for (const auto& [key, traffic] : traffic_) calls += key.kind == kind ? traffic.calls : 0;
  return calls;
}

std::vector<std::vector<std::byte>> CountingCommunicator::all_gather(std::span<const std::byte> mine,
                                                                     const Place& place) {
  auto all = inner_.all_gather(mine, place);
  Traffic& traffic = traffic_[{"all_gather", place.collective, place.layer, place.group}];
  const std::int64_t others = ranks() - 1;
  ++traffic.calls;
  ++traffic.calls_of_all;
  traffic.messages += mine.empty() ? 0 : others;
  traffic.bytes += static_cast<std::uint64_t>(others) * wire_bytes({mine.size()});
  return all;
}

void CountingCommunicator::begin(Outbox outbox, const Place& place) {
  Traffic sent{.calls = 1, .calls_of_all = place.among.empty() ? 1 : 0};
  for (std::size_t r = 0; r < outbox.size(); ++r) {
    if (r == static_cast<std::size_t>(rank()) || !place.takes_part(static_cast<int>(r))) continue;
    const SectionSizes sizes = outbox[r].sizes();
    for (std::size_t s = 0; s < kSections; ++s) sent.section_bytes[s] += sizes[s];
    sent.messages += sizes == SectionSizes{} ? 0 : 1;
    sent.bytes += wire_bytes(sizes);
  }

  inner_.begin(std::move(outbox), place);
  Traffic& traffic = traffic_[{"exchange", place.collective, place.layer, place.group}];
  traffic.calls += sent.calls;
  traffic.calls_of_all += sent.calls_of_all;
  traffic.messages += sent.messages;
  traffic.bytes += sent.bytes;
  for (std::size_t s = 0; s < kSections; ++s) traffic.section_bytes[s] += sent.section_bytes[s];
}

}  // namespace coterie
