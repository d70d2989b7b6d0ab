#include "comm/note_carrier.hpp"

#include <algorithm>
#include <utility>

namespace coterie {
namespace {

Message with_note(const Message& message, std::span<const std::byte> note) {
  SectionSizes sizes{};
  for (std::size_t s = 0; s < kSections; ++s) sizes[s] = message.section(static_cast<Section>(s)).size();
  sizes[static_cast<std::size_t>(Section::note)] = note.size();
  Message out(sizes, message.flags());
  for (std::size_t s = 0; s < kSections; ++s) {
    const auto section = static_cast<Section>(s);
    const auto from = section == Section::note ? note : message.section(section);
    std::copy(from.begin(), from.end(), out.section(section).begin());
  }
  return out;
}

}  // namespace

std::vector<std::vector<std::byte>> NoteCarrier::take(const Place& place) {
  if (posted_) arrived_ = inner_.all_gather(*std::exchange(posted_, std::nullopt), place);
  return std::exchange(arrived_, {});
}

void NoteCarrier::begin(Outbox outbox, const Place& place) {
  carries_ = posted_ && place.among.empty();
  for (int r = 0; carries_ && r < ranks(); ++r) {
    if (r != rank()) outbox.at(r) = with_note(outbox.at(r), *posted_);
  }
  inner_.begin(std::move(outbox), place);
}

Inbox NoteCarrier::finish() {
  Inbox inbox = inner_.finish();
  if (!std::exchange(carries_, false)) return inbox;
  arrived_.resize(inbox.size());
  for (std::size_t r = 0; r < inbox.size(); ++r) {
    const auto note = std::as_const(inbox[r]).section(Section::note);
    arrived_[r].assign(note.begin(), note.end());
  }
  arrived_[rank()] = *std::exchange(posted_, std::nullopt);
  return inbox;
}

}  // namespace coterie
