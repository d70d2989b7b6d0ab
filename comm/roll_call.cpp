#include "comm/roll_call.hpp"

#include "comm/communicator.hpp"
#include "comm/mpi_check.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>

namespace coterie {
namespace {

constexpr std::size_t kNamed = 8;  // ranks that a message names one by one

}  // namespace

std::string to_string_of_ranks(std::span<const int> ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  const std::size_t named = std::min(ranks.size(), kNamed);
  for (std::size_t i = 0; i < named; ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  if (ranks.size() > named) text += " and " + std::to_string(ranks.size() - named) + " more";
  return text;
}

std::string time_out_text(std::chrono::duration<double> limit, const Stamp& here,
                          std::span<const Straggler> stragglers) {
  std::ostringstream text;
  text << "timed out after " << limit.count() << " s at " << to_string(here);
  std::vector<int> absent, unfinished;
  for (const Straggler& s : stragglers) (s.arrived ? unfinished : absent).push_back(s.rank);
  const char* separator = ": ";
  if (!absent.empty()) text << separator << to_string_of_ranks(absent) << " did not arrive", separator = "; ";
  if (!unfinished.empty()) text << separator << to_string_of_ranks(unfinished) << " arrived but did not finish";

  for (const Straggler& s : stragglers.first(std::min(stragglers.size(), kNamed))) {
    text << "; rank " << s.rank;
    if (s.answer) {
      text << " stands at " << *s.answer;
    } else {
      text << " does not answer";
      if (!s.arrived) {
        text << ", it was last seen at "
             << (s.last_seen.kind == Stamp::Kind::none ? "the start" : to_string(s.last_seen));
      }
    }
  }
  return text.str();
}

Notice::Notice(Subject the_subject, int the_communicator, const std::string& the_text)
    : subject(the_subject), communicator(the_communicator) {
  length = static_cast<int>(std::min(the_text.size(), text.size()));
  std::memcpy(text.data(), the_text.data(), static_cast<std::size_t>(length));
}

RollCall::RollCall(MPI_Comm comm, int tag) : comm_(comm), tag_(tag) {
  MPI_CHECK(MPI_Recv_init(&heard_, sizeof heard_, MPI_BYTE, MPI_ANY_SOURCE, tag_, comm_, &request_));
  MPI_CHECK(MPI_Start(&request_));
}

RollCall::~RollCall() {
  MPI_Cancel(&request_);
  MPI_Wait(&request_, MPI_STATUS_IGNORE);
  MPI_Request_free(&request_);
  for (std::size_t i = 0; i < sent_.size(); ++i) {
    int done = 0;
    if (MPI_Test(&sends_[i], &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || done == 0) (void)sent_[i].release();
  }
}

Notice RollCall::take() {
  const Notice notice = heard_;
  MPI_CHECK(MPI_Start(&request_));
  return notice;
}

std::optional<std::string> RollCall::hear(int peer, const Notice& notice, int communicator, const Stamp& stamp,
                                          const std::string& where) {
  switch (notice.subject) {
    case Notice::Subject::where:
      send(peer, {Notice::Subject::here, notice.communicator, where});
      break;
    case Notice::Subject::here:
      if (notice.communicator == communicator) return notice.str();
      break;
    case Notice::Subject::given_up:
      given_up_.emplace(notice.communicator, "rank " + std::to_string(peer) + " gave up: " + notice.str());
      require_kept(communicator, stamp);
  }
  return std::nullopt;
}

void RollCall::require_kept(int communicator, const Stamp& stamp) const {
  const auto found = given_up_.find(communicator);
  if (found != given_up_.end()) throw CommError(to_string(stamp) + ": " + found->second);
}

void RollCall::send(int rank, const Notice& notice) {
  sent_.push_back(std::make_unique<Notice>(notice));
  sends_.push_back(MPI_REQUEST_NULL);
  MPI_CHECK(MPI_Isend(sent_.back().get(), sizeof notice, MPI_BYTE, rank, tag_, comm_, &sends_.back()));
}

}  // namespace coterie
