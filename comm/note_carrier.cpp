#include "comm/note_carrier.hpp"

#include <utility>

namespace coterie {

std::vector<std::vector<std::byte>> NoteCarrier::take(const Place& place) {
  if (posted_) arrived_ = inner_.all_gather(*std::exchange(posted_, std::nullopt), place);
  return std::exchange(arrived_, {});
}

void NoteCarrier::begin(Outbox outbox, const Place& place) {
  carries_ = posted_ && place.among.empty();
  for (int r = 0; carries_ && r < ranks(); ++r) {
    if (r != rank()) outbox.at(r) = std::move(outbox.at(r)).with_note(*posted_);
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
