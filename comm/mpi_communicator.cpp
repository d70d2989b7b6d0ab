#include "comm/mpi_communicator.hpp"

#include "comm/mpi_check.hpp"
#include "comm/mpi_job.hpp"
#include "comm/outbox.hpp"

#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

namespace coterie {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kGrace{2};             // for the others to answer when time is up
constexpr std::chrono::hours kForever{87600};         // a time limit that the clock's arithmetic can hold
constexpr std::size_t kMostUnasked = 16 << 20;        // bytes
constexpr std::size_t kLeastFirst = 8 << 10;          // bytes
constexpr std::size_t kMostFirst = (64 << 10) - 256;  // bytes; above Open MPI asks the receiver first over TCP
constexpr int kSpins = 64;                            // polls before the core is offered to others, or to work
// Who waits long sleeps between its polls, so that others have the core: a small share of what it waited so far, and
// first most of what collectives took at least of late, as nothing can come sooner over a link of that delay.
constexpr int kNapShare = 8;
constexpr std::chrono::microseconds kShortestNap{5}, kLongestNap{50}, kLongestSleep{10000};
constexpr std::chrono::microseconds kGrowth{10};  // of that least, and a sixteenth of it, with each collective

Clock::duration as_limit(std::chrono::duration<double> seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::min<std::chrono::duration<double>>(seconds, kForever));
}

}  // namespace

MpiCommunicator::MpiCommunicator(MpiSession::Job& job, const CommOptions& options, const MpiPieces& pieces)
    : comm_(job.comm),
      roll_call_(job.roll_call.get()),
      rank_(job.rank),
      ranks_(job.ranks),
      number_(job.communicators++),
      node_of_rank_(job.node_of_rank),
      timeout_(options.timeout),
      pieces_(pieces),
      peers_(static_cast<std::size_t>(job.ranks)),
      receives_(static_cast<std::size_t>(job.ranks), MPI_REQUEST_NULL) {
  job.longest_timeout = std::max(job.longest_timeout, timeout_);
  pieces_.first = std::max<std::size_t>(pieces_.first, wire_bytes({}));
  if (options.ranks_per_node > 0) {
    for (int r = 0; r < ranks_; ++r) node_of_rank_[r] = r / options.ranks_per_node;
  }
  if (ranks_ == 1) return;
  ::prctl(PR_SET_TIMERSLACK, 1);  // nanoseconds by which a nap may be longer than asked for

  buffers_->first.resize(ranks_ * pieces_.first);
  for (int r = 0; r < ranks_; ++r) {
    if (r == rank_) continue;
    MPI_CHECK(MPI_Recv_init(buffers_->first.data() + r * pieces_.first, static_cast<int>(pieces_.first), MPI_BYTE, r,
                            first_piece_tag(number_), comm_, &receives_[r]));
    MPI_CHECK(MPI_Start(&receives_[r]));
  }
}

MpiCommunicator::~MpiCommunicator() {
  if (under_way_) {
    (void)buffers_.release();
    return;
  }
  for (MPI_Request& receive : receives_) {
    if (receive == MPI_REQUEST_NULL) continue;
    MPI_Cancel(&receive);
    MPI_Wait(&receive, MPI_STATUS_IGNORE);
    MPI_Request_free(&receive);
  }
}

std::vector<std::vector<std::byte>> MpiCommunicator::all_gather(std::span<const std::byte> mine, const Place& place) {
  std::vector<std::vector<std::byte>> all(static_cast<std::size_t>(ranks_));
  if (ranks_ > 1) {
    open(Stamp::Kind::all_gather, {place.collective, place.layer, place.step});
    Message& message = buffers_->shared = Message(sizes_of({{Section::note, mine.size()}}));
    std::copy(mine.begin(), mine.end(), message.section(Section::note).begin());
    message.mark(stamp_);
    for (int i = 1; i < ranks_; ++i) send((rank_ + i) % ranks_, message.wire(), Part::rows);
    wait(Part::weights);
    close();
    for (int r = 0; r < ranks_; ++r) {
      const auto theirs = std::as_const(buffers_->inbox[r]).section(Section::note);
      all[r].assign(theirs.begin(), theirs.end());
    }
  }
  all[rank_].assign(mine.begin(), mine.end());
  return all;
}

void MpiCommunicator::begin(Outbox outbox, const Place& place) {
  check_outbox(outbox, place, *this);
  if (ranks_ == 1) {
    buffers_->inbox = std::move(outbox);
    return;
  }
  open(Stamp::Kind::exchange, place);
  Message& empty = buffers_->shared = Message(SectionSizes{});
  empty.mark(stamp_);
  buffers_->outbox = std::move(outbox);
  buffers_->inbox[rank_] = std::move(buffers_->outbox[rank_]);
  if (std::ranges::any_of(buffers_->outbox, [](Message& message) { return !message.bulk().empty(); })) {
    wait_for_message_work();
  }
  for (int i = 1; i < ranks_; ++i) {
    const int peer = (rank_ + i) % ranks_;
    Message& message = buffers_->outbox[peer];
    if (!place.takes_part(peer)) continue;
    if (!message.empty()) message.mark(stamp_);
    send(peer, message.empty() ? empty.wire() : message.wire(), Part::rows);
    if (is_late(peer, Part::weights)) {
      held_back_.push_back(peer);  // what is sent behind weights, be it the end of the rows, waits for them
    } else {
      send(peer, message.wire(), Part::weights);
    }
  }
}

bool MpiCommunicator::progress() {
  interleaved_ = true;
  // A look moves a fragment or two, and Open MPI looks at sockets in every eighth only.
  for (int idle = 0; open_ > 0 && idle < kSpins; ++idle) {
    if (poll() > 0) idle = 0;
  }
  return open_ == 0;
}

Inbox& MpiCommunicator::wait_for_rows() {
  wait(Part::rows);
  return buffers_->inbox;
}

Inbox MpiCommunicator::finish() {
  wait(Part::weights);
  close();
  return std::move(buffers_->inbox);
}

void MpiCommunicator::open(Stamp::Kind kind, const Place& place) {
  const Stamp stamp(kind, place);
  if (under_way_) throw CommError(to_string(stamp) + ": this communicator failed before, at " + to_string(stamp_));
  roll_call_->require_kept(number_, stamp);
  under_way_ = true;
  interleaved_ = false;
  begun_ = Clock::now();
  stamp_ = stamp;
  buffers_->inbox.clear();
  buffers_->inbox.resize(static_cast<std::size_t>(ranks_));
  requests_ = {roll_call_->request()};
  peer_of_request_ = {rank_};
  for (int r = 0; r < ranks_; ++r) {
    const bool waits = r != rank_ && place.takes_part(r);
    peers_[r].arrived = !waits;
    peers_[r].open = waits ? 1 : 0;
    if (!waits) continue;
    requests_.push_back(receives_[r]);
    peer_of_request_.push_back(r);
  }
  standing_ = requests_.size();
  roles_.assign(standing_, Role::row);
  open_ = static_cast<int>(standing_) - 1;
}

MpiCommunicator::Piece MpiCommunicator::piece_at(std::size_t done, const SectionSizes& sizes) const {
  const std::size_t bytes = wire_bytes(sizes), weights = weights_at(sizes);
  if (done == 0) return {std::min(pieces_.first, bytes), Part::rows};
  if (done < weights) return {std::min(pieces_.rest, weights - done), Part::rows};
  return {std::min(pieces_.weights, bytes - done), Part::weights};
}

void MpiCommunicator::send(int peer, std::span<const std::byte> wire, Part part) {
  if (wire.empty()) return;
  const SectionSizes sizes = header_of(wire).sizes;
  Piece piece;
  for (std::size_t done = 0; done < wire.size(); done += piece.bytes) {
    piece = piece_at(done, sizes);
    if (piece.part != part) continue;
    const int tag = done == 0 ? first_piece_tag(number_) : rest_tag(number_);
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_CHECK(MPI_Isend(wire.data() + done, static_cast<int>(piece.bytes), MPI_BYTE, peer, tag, comm_, &request));
    add(peer, request, is_late(peer, part) ? Role::late : Role::sent_row);
  }
}

void MpiCommunicator::add(int peer, MPI_Request request, Role role) {
  requests_.push_back(request);
  peer_of_request_.push_back(peer);
  roles_.push_back(role);
  ++peers_[peer].open;
  ++open_;
  ++added_open_;
  late_open_ += role == Role::late ? 1 : 0;
  sent_rows_open_ += role == Role::sent_row ? 1 : 0;
}

void MpiCommunicator::wait(Part part) {
  const Clock::time_point start = Clock::now();
  Clock::time_point limit = start + as_limit(timeout_);
  const std::chrono::nanoseconds least = interleaved_ ? Clock::duration(0) : least_of_these();
  bool asked = false;
  for (int idle = 0; open_ > (part == Part::rows ? late_open_ : 0); ++idle) {
    if (poll() > 0) {
      idle = 0;
      continue;
    }
    const Clock::time_point now = Clock::now();
    if (now >= limit && !asked) {
      ask_stragglers();
      asked = true;
      limit = now + kGrace;
    } else if (now >= limit) {
      std::vector<Straggler> missing;
      for (const int r : stragglers()) {
        missing.push_back({r, peers_[r].arrived, peers_[r].last_seen, peers_[r].answer});
      }
      give_up(time_out_text(timeout_, stamp_, missing));
    }
    // Long messages through shared memory move only while both ends poll.
    const bool moving = std::any_of(peers_.begin(), peers_.end(), [&](const Peer& peer) {
      return peer.arrived && peer.open > 0 && node_of_rank_[&peer - peers_.data()] == node_of_rank_[rank_];
    });
    auto nap = std::min<Clock::duration>((now - start) / kNapShare, kLongestNap);
    if (added_open_ == 0) nap = std::max(nap, std::min<Clock::duration>(least * 3 / 4 - (now - start), kLongestSleep));
    if (nap >= kShortestNap && !moving) {
      std::this_thread::sleep_for(nap);
    } else if (idle >= kSpins) {
      ::sched_yield();
    }
  }
}

void MpiCommunicator::close() {
  const bool in_pieces = requests_.size() > 2 * standing_ - 1;  // which move only while they are polled
  std::chrono::nanoseconds& least = least_of_these();
  if (in_pieces) {
    least = Clock::duration(0);
  } else if (!interleaved_) {
    least = std::min<Clock::duration>(Clock::now() - begun_, least * 17 / 16 + kGrowth);
  }
  for (std::size_t i = 1; i < standing_; ++i) MPI_CHECK(MPI_Start(&receives_[peer_of_request_[i]]));
  buffers_->outbox.clear();
  under_way_ = false;
}

int MpiCommunicator::poll() {
  done_.resize(requests_.size());
  statuses_.resize(requests_.size());
  int count = 0;
  const int code =
      MPI_Testsome(static_cast<int>(requests_.size()), requests_.data(), &count, done_.data(), statuses_.data());
  if (code == MPI_ERR_IN_STATUS) {
    for (int i = 0; i < count; ++i) MPI_CHECK(statuses_[i].MPI_ERROR);
  }
  MPI_CHECK(code);
  for (int i = 0; i < count; ++i) {
    const int request = done_[i];
    const int peer = peer_of_request_[request];
    if (request == 0) {
      hear(statuses_[i].MPI_SOURCE, roll_call_->take());
      continue;
    }
    static_cast<std::size_t>(request) < standing_ ? receive(peer, statuses_[i]) : void(--added_open_);
    late_open_ -= roles_[request] == Role::late ? 1 : 0;
    sent_rows_open_ -= roles_[request] == Role::sent_row ? 1 : 0;
    --peers_[peer].open;
    --open_;
  }
  if (sent_rows_open_ == 0 && !held_back_.empty()) {
    for (const int peer : held_back_) send(peer, buffers_->outbox[peer].wire(), Part::weights);
    held_back_.clear();
  }
  return count;
}

void MpiCommunicator::receive(int peer, const MPI_Status& status) {
  int count = 0;
  MPI_CHECK(MPI_Get_count(&status, MPI_BYTE, &count));
  const std::span first(buffers_->first.data() + peer * pieces_.first, static_cast<std::size_t>(count));
  const MessageHeader header = header_of(first);
  peers_[peer].arrived = true;
  peers_[peer].last_seen = header.stamp;
  if (header.stamp != stamp_) {
    give_up("ranks disagree: rank " + std::to_string(rank_) + " stands at " + to_string(stamp_) + " (" +
            to_string(stamp_.kind) + "), rank " + std::to_string(peer) + " at " + to_string(header.stamp) + " (" +
            to_string(header.stamp.kind) + ')');
  }
  const std::uint64_t bytes = wire_bytes(header.sizes);
  if (first.size() != std::min<std::uint64_t>(bytes, pieces_.first)) {
    throw CommError(to_string(stamp_) + ": a message from rank " + std::to_string(peer) + " contradicts its header");
  }
  if (bytes == wire_bytes({}) && header.flags == 0) return;

  Message& message = buffers_->inbox[peer] = Message::for_receiving(bytes);
  std::memcpy(message.wire().data(), first.data(), first.size());
  const std::span<std::byte> wire = message.wire();
  Piece piece;
  for (std::size_t done = first.size(); done < wire.size(); done += piece.bytes) {
    piece = piece_at(done, header.sizes);
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_CHECK(MPI_Irecv(wire.data() + done, static_cast<int>(piece.bytes), MPI_BYTE, peer, rest_tag(number_), comm_,
                        &request));
    add(peer, request, is_late(peer, piece.part) ? Role::late : Role::row);
  }
}

void MpiCommunicator::hear(int peer, const Notice& notice) {
  if (auto answer = roll_call_->hear(peer, notice, number_, stamp_, where())) peers_[peer].answer = std::move(answer);
}

std::string MpiCommunicator::where() const {
  const std::vector<int> missing = stragglers();
  return to_string(stamp_) + (missing.empty() ? "" : ", waiting for " + to_string_of_ranks(missing));
}

std::vector<int> MpiCommunicator::stragglers() const {
  std::vector<int> missing;
  for (int r = 0; r < ranks_; ++r) {
    if (peers_[r].open > 0) missing.push_back(r);
  }
  return missing;
}

void MpiCommunicator::ask_stragglers() {
  for (const int r : stragglers()) {
    peers_[r].answer.reset();
    roll_call_->send(r, {Notice::Subject::where, number_});
  }
}

void MpiCommunicator::give_up(const std::string& why) {
  for (int r = 0; r < ranks_; ++r) {
    if (r != rank_) roll_call_->send(r, {Notice::Subject::given_up, number_, why});
  }
  throw CommError(why);
}

std::unique_ptr<Communicator> make_mpi_communicator(MpiSession& session, const CommOptions& options) {
  // A message that fits its first piece needs one trip. What all ranks together may send unasked is bounded.
  const std::size_t first = kMostUnasked / static_cast<std::size_t>(session.ranks());
  return std::make_unique<MpiCommunicator>(session.job(), options,
                                           MpiPieces{.first = std::clamp(first, kLeastFirst, kMostFirst)});
}

}  // namespace coterie
