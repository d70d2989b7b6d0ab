#include "runtime/engine/agreement.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>

namespace coterie {
namespace {

std::vector<std::string> gather_texts(Communicator& comm, const std::string& mine, const Place& place) {
  std::vector<std::string> texts;
  for (const auto& bytes : comm.all_gather(std::as_bytes(std::span(mine)), place)) {
    texts.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return texts;
}

}  // namespace

void all_or_none(Communicator& comm, const std::function<void()>& body) {
  std::string error;
  try {
    body();
  } catch (const InputError& e) {
    error = e.what();
  }
  for (const std::string& text : gather_texts(comm, error, {"check of the input"})) {
    if (!text.empty()) throw AgreedError(text);
  }
}

void expect_same(Communicator& comm, const std::vector<std::pair<std::string, std::string>>& facts) {
  nlohmann::json mine = nlohmann::json::array();
  for (const auto& [name, value] : facts) mine.push_back(value);
  const std::vector<std::string> texts = gather_texts(
      comm, mine.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), {"comparison of the input"});
  const auto first = nlohmann::json::parse(texts.front());
  for (std::size_t rank = 1; rank < texts.size(); ++rank) {
    const auto theirs = nlohmann::json::parse(texts[rank]);
    for (std::size_t i = 0; i < facts.size(); ++i) {
      if (theirs[i] == first[i]) continue;
      throw AgreedError(facts[i].first + ": found " + theirs[i].dump() + " on rank " + std::to_string(rank) +
                        ", expected " + first[i].dump() + " as on rank 0");
    }
  }
}

std::int64_t smallest(Communicator& comm, std::int64_t mine) {
  std::int64_t least = mine;
  for (const auto& bytes : comm.all_gather(std::as_bytes(std::span(&mine, 1)), {"smallest value"})) {
    std::int64_t theirs = 0;
    std::memcpy(&theirs, bytes.data(), sizeof theirs);
    least = std::min(least, theirs);
  }
  return least;
}

std::vector<std::vector<std::byte>> gather_on_first(Communicator& comm, std::span<const std::byte> mine,
                                                    const Place& place) {
  Outbox out(comm.ranks());
  out[0] = Message(sizes_of({{Section::note, mine.size()}}));
  std::ranges::copy(mine, out[0].section(Section::note).begin());
  const Inbox arrived = comm.exchange(std::move(out), place);
  std::vector<std::vector<std::byte>> gathered;
  if (comm.rank() != 0) return gathered;
  for (const Message& message : arrived) {
    const auto bytes = message.section(Section::note);
    gathered.emplace_back(bytes.begin(), bytes.end());
  }
  return gathered;
}

}  // namespace coterie
