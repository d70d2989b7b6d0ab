#include "comm/stamp.hpp"

#include "comm/communicator.hpp"

#include <cstring>

namespace coterie {

Stamp::Stamp(Kind the_kind, const Place& place) noexcept : kind(the_kind), layer(place.layer), step(place.step) {
  std::memcpy(collective.data(), place.collective, ::strnlen(place.collective, collective.size() - 1));
}

std::string to_string(const Stamp& stamp) {
  std::string text = stamp.collective.data();
  if (stamp.layer >= 0) text += " at layer " + std::to_string(stamp.layer);
  if (stamp.step >= 0) text += (stamp.layer >= 0 ? ", step " : " at step ") + std::to_string(stamp.step);
  return text;
}

std::string to_string(const Place& place) {
  return to_string(Stamp(Stamp::Kind::none, place));
}

const char* to_string(Stamp::Kind kind) noexcept {
  switch (kind) {
    case Stamp::Kind::exchange:
      return "exchange";
    case Stamp::Kind::all_gather:
      return "all-gather";
    case Stamp::Kind::none:
      break;
  }
  return "no collective";
}

}  // namespace coterie
