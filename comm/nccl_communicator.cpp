#include "comm/nccl_communicator.hpp"

#include "comm/mpi_check.hpp"
#include "comm/mpi_job.hpp"
#include "comm/outbox.hpp"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>

namespace coterie {
namespace {

constexpr std::chrono::seconds kGrace{2};          // for the others to answer when time is up
constexpr std::chrono::hours kForever{87600};      // a time limit that the clock's arithmetic can hold
constexpr std::size_t kMostSlots = 4 << 20;        // bytes of a rank's slots together
constexpr std::size_t kLeastSlot = 8 << 10;        // bytes
constexpr std::size_t kMostSlot = 64 << 10;        // bytes
constexpr int kSpins = 64;                         // polls before the core is offered to others
constexpr std::chrono::milliseconds kSpinning{2};  // before polls are apart
constexpr std::chrono::microseconds kNap{50};

}  // namespace

std::size_t ExpectedBulk::bytes() const noexcept {
  const std::uint64_t most = *std::ranges::max_element(last_);
  return most == 0 || most > kLeastBulk ? 0 : std::bit_ceil(most);
}

NcclCommunicator::NcclCommunicator(MpiSession& session, const NcclOptions& options, std::size_t slot)
    : mpi_(make_mpi_communicator(session, options.comm)),
      roll_call_(session.job().roll_call.get()),
      number_(session.job().communicators++),
      timeout_(std::min<std::chrono::duration<double>>(options.comm.timeout, kForever)),
      slot_(std::max<std::size_t>(slot / wire_bytes({}), 1) * wire_bytes({})),
      node_of_rank_(mpi_->node_of_rank().begin(), mpi_->node_of_rank().end()),
      peers_(static_cast<std::size_t>(session.ranks())) {
  if (ranks() > 1) start(session, options);
}

NcclCommunicator::~NcclCommunicator() {
  const bool in_order = stage_ == Stage::idle || stage_ == Stage::trailing;
  if (nccl_ && in_order && std::uncaught_exceptions() == 0) end();
  leave();
  if (stage_ != Stage::idle) (void)buffers_.release();
}

void NcclCommunicator::begin(Outbox outbox, const Place& place) {
  check_outbox(outbox, place, *this);
  if (ranks() == 1) {
    buffers_->inbox = std::move(outbox);
    return;
  }
  open(place, Stage::slots);
  buffers_->inbox.clear();
  buffers_->inbox.resize(outbox.size());
  buffers_->inbox[rank()] = std::move(outbox[rank()]);
  buffers_->outbox = std::move(outbox);
  late_weights_ = false;
  fresh_bulk_ = false;
  const bool fast = fast_among_these();
  for (int peer = 0; peer < ranks(); ++peer) {
    Peer& p = peers_[peer];
    if (!p.takes_part) continue;
    const std::uint64_t bulk = buffers_->outbox[peer].bulk().size();
    p.sent_slot = fast ? kLeastBulk : p.sent.bytes();
    p.received_slot = fast ? kLeastBulk : p.received.bytes();
    p.sent.came(bulk);
    if (p.received_slot > 0) buffers_->in_slots[peer] = take_bulk_memory(p.received_slot);
  }
  precede_transport(stream_.get());
  send_slots(fast);
}

void NcclCommunicator::open(const Place& place, Stage stage) {
  const Stamp stamp(Stamp::Kind::exchange, place);
  if (stage_ != Stage::idle && (stage_ != Stage::trailing || !nccl_)) {
    throw CommError(to_string(stamp) + ": this communicator failed before, at " + to_string(stamp_));
  }
  if (roll_call_ != nullptr) roll_call_->require_kept(number_, stamp);
  stamp_ = stamp;
  stage_ = stage;
  for (int r = 0; r < ranks(); ++r) peers_[r].takes_part = r != rank() && place.takes_part(r);
}

void NcclCommunicator::send_slots(bool fast) {
  Message empty(SectionSizes{});
  empty.mark(stamp_);
  std::vector<Slot> slots;
  for (int i = 1; i < ranks(); ++i) {
    const int peer = (rank() + i) % ranks();
    if (!peers_[peer].takes_part) continue;
    Message& message = buffers_->outbox[peer];
    if (!message.empty()) message.mark(stamp_);
    const auto head = message.empty() ? empty.head() : message.head();
    const auto first = head.first(std::min(slot_, head.size()));
    const std::span copy(slot_of(buffers_->sent, peer), first.size());
    // NCCL sends whole slots; the other way messages are sent from where they are, as far as they fit.
    const bool in_place = fast && !message.empty();
    if (!in_place) std::ranges::copy(first, copy.begin());
    std::memset(slot_of(buffers_->received, peer), 0, sizeof(MessageHeader));
    const Peer& p = peers_[peer];
    DeviceBytes bulk = message.bulk();
    if (fast) {
      if (bulk.size() > p.sent_slot) bulk = {};
    } else {
      bulk = {bulk.empty() ? buffers_->nothing.get() : bulk.address(), p.sent_slot};
    }
    slots.push_back({peer,
                     in_place ? first : copy,
                     slot_of(buffers_->received, peer),
                     bulk,
                     {buffers_->in_slots[peer].get(), p.received_slot}});
  }
  send(slots, fast);
}

bool NcclCommunicator::fast_among_these() const {
  if (!fast_slots_) return false;
  std::vector<int> others;
  for (int r = 0; r < ranks(); ++r) {
    if (peers_[r].takes_part) others.push_back(r);
  }
  return fast_slots_->reaches(others);
}

void NcclCommunicator::send(std::span<const Slot> slots, bool fast) {
  fast_ = fast;
  if (fast) return check(fast_slots_->begin(slots), "an exchange of slots");
  check(ncclGroupStart(), "ncclGroupStart");
  for (const Slot& slot : slots) {
    send({const_cast<std::byte*>(slot.sent.data()), slot_}, slot.peer);
    receive({slot.received, slot_}, slot.peer);
    send(slot.bulk_sent, slot.peer);
    receive(slot.bulk_received, slot.peer);
  }
  check(ncclGroupEnd(), "ncclGroupEnd");
}

void NcclCommunicator::take_slots() {
  for (int peer = 0; peer < ranks(); ++peer) {
    if (!peers_[peer].takes_part) continue;
    const std::span slot(slot_of(buffers_->received, peer), slot_);
    const MessageHeader header = header_of(slot);
    peers_[peer].last_seen = header.stamp;
    if (header.stamp != stamp_) {
      give_up("ranks disagree: rank " + std::to_string(rank()) + " stands at " + to_string(stamp_) + ", rank " +
              std::to_string(peer) + " at " + to_string(header.stamp));
    }
    const std::uint64_t bulk = bulk_bytes(header.sizes);
    peers_[peer].received.came(bulk);
    MessageMemory in_slot = std::move(buffers_->in_slots[peer]);
    if (header.sizes == SectionSizes{} && header.flags == 0) continue;
    if (bulk == 0 || bulk > peers_[peer].received_slot) in_slot.reset();
    const bool came = in_slot != nullptr;
    Message& message = buffers_->inbox[peer] = Message(header.sizes, header.flags, std::move(in_slot));
    const auto head = message.head();
    std::memcpy(head.data(), slot.data(), std::min(head.size(), slot_));
    fresh_bulk_ = fresh_bulk_ || (!came && message.bulk_is_fresh());
  }
}

void NcclCommunicator::send(const DeviceBytes& bytes, int peer) {
  if (bytes.empty()) return;
  check(ncclSend(bytes.address(), bytes.size(), ncclUint8, peer, nccl_.get(), stream_.get()), "ncclSend");
}

void NcclCommunicator::receive(const DeviceBytes& bytes, int peer) {
  if (bytes.empty()) return;
  check(ncclRecv(bytes.address(), bytes.size(), ncclUint8, peer, nccl_.get(), stream_.get()), "ncclRecv");
}

DeviceBytes NcclCommunicator::rest(Message& message, std::size_t bulk_slot, Stage of) const {
  const auto head = message.head();
  if (of == Stage::heads)
    return head.size() <= slot_ ? DeviceBytes() : DeviceBytes(head.data(), head.size()).subspan(slot_);
  const DeviceBytes bulk = message.bulk();
  if (bulk.size() <= bulk_slot) return {};
  const std::size_t weights = weights_at(message.sizes()) - head.size();
  return of == Stage::rows ? bulk.subspan(0, weights) : bulk.subspan(weights);
}

bool NcclCommunicator::send_rest(Stage of) {
  std::vector<std::pair<int, DeviceBytes>> sent, received;
  for (int peer = 0; peer < ranks(); ++peer) {
    const Peer& p = peers_[peer];
    if (!p.takes_part) continue;
    sent.emplace_back(peer, rest(buffers_->outbox[peer], p.sent_slot, of));
    received.emplace_back(peer, rest(buffers_->inbox[peer], p.received_slot, of));
  }
  const auto is_empty = [](const auto& of_peer) { return of_peer.second.empty(); };
  if (std::ranges::all_of(sent, is_empty) && std::ranges::all_of(received, is_empty)) return false;
  check(ncclGroupStart(), "ncclGroupStart");
  for (const auto& [peer, bytes] : sent) send(bytes, peer);
  for (const auto& [peer, bytes] : received) receive(bytes, peer);
  check(ncclGroupEnd(), "ncclGroupEnd");
  return true;
}

bool NcclCommunicator::progress() {
  if (stage_ == Stage::idle) return true;
  listen();
  if (stage_ == Stage::starting) {
    if (!is_done()) return false;
    stage_ = Stage::idle;
  }
  if (stage_ == Stage::slots) {
    if (!is_done()) return false;
    take_slots();
    stage_ = Stage::heads;
    long_heads_ = send_rest(stage_);
    if (long_heads_) return false;
  }
  if (stage_ == Stage::heads) {
    if (long_heads_ && !is_done()) return false;
    if (fresh_bulk_) precede_transport(stream_.get());
    stage_ = Stage::rows;
    if (send_rest(stage_)) return false;
  }
  if (stage_ == Stage::rows) {
    if (!is_launched()) return false;
    follow_transport(stream_.get());
    stage_ = Stage::weights;
    late_weights_ = send_rest(stage_);
    if (late_weights_) return false;
  }
  if (stage_ == Stage::weights) {
    if (!is_launched()) return false;
    stage_ = Stage::trailing;
    trailing_since_ = Clock::now();
  }
  if (stage_ == Stage::trailing) {
    if (is_done()) {
      stage_ = Stage::idle;
    } else if (Clock::now() - trailing_since_ > timeout_) {
      time_out();
    }
  }
  return true;
}

void NcclCommunicator::wait(Stage last) {
  const auto begun = Clock::now();
  const auto limit = begun + std::chrono::duration_cast<Clock::duration>(timeout_);
  for (int polls = 0; stage_ <= last && !progress() && stage_ <= last; ++polls) {
    const auto now = Clock::now();
    if (now >= limit) time_out();
    if (now - begun > kSpinning) {
      std::this_thread::sleep_for(kNap);
    } else if (polls >= kSpins) {
      ::sched_yield();
    }
  }
}

Inbox& NcclCommunicator::wait_for_rows() {
  wait(Stage::rows);
  return buffers_->inbox;
}

Inbox NcclCommunicator::finish() {
  wait(Stage::weights);
  if (late_weights_) follow_transport(stream_.get());
  buffers_->outbox.clear();
  return std::move(buffers_->inbox);
}

bool NcclCommunicator::is_launched() {
  ncclResult_t state = ncclSuccess;
  check(ncclCommGetAsyncError(nccl_.get(), &state), "ncclCommGetAsyncError");
  if (state == ncclInProgress) return false;
  check(state, "a communicator's state");
  return true;
}

bool NcclCommunicator::is_done() {
  if (fast_) {
    fast_ = !fast_slots_->is_done();
    if (!fast_) return true;
    const cudaError_t error = cudaStreamQuery(stream_.get());
    if (error != cudaErrorNotReady) check(error, "an exchange of slots");
    return false;
  }
  if (!is_launched()) return false;
  const cudaError_t error = cudaStreamQuery(stream_.get());
  if (error == cudaErrorNotReady) return false;
  check(error, "an exchange on the GPU");
  return true;
}

void NcclCommunicator::listen() {
  MPI_Request request = roll_call_->request();
  MPI_Status status;
  int heard = 0;
  MPI_CHECK(MPI_Test(&request, &heard, &status));
  if (heard != 0) hear(status.MPI_SOURCE, roll_call_->take());
}

void NcclCommunicator::hear(int peer, const Notice& notice) {
  try {
    if (auto answer = roll_call_->hear(peer, notice, number_, stamp_, to_string(stamp_))) {
      peers_[peer].answer = std::move(answer);
    }
  } catch (const CommError&) {
    abandon();
    throw;
  }
}

void NcclCommunicator::time_out() {
  for (int r = 0; r < ranks(); ++r) {
    if (!peers_[r].takes_part) continue;
    peers_[r].answer.reset();
    roll_call_->send(r, {Notice::Subject::where, number_});
  }
  for (const auto limit = Clock::now() + kGrace; Clock::now() < limit; std::this_thread::sleep_for(kNap)) listen();

  // NCCL doesn't say for whom it waits: for those that stand elsewhere or don't answer, or if there are none, for all.
  std::vector<Straggler> elsewhere, all;
  for (int r = 0; r < ranks(); ++r) {
    const Peer& peer = peers_[r];
    if (!peer.takes_part) continue;
    const bool here = peer.answer == to_string(stamp_);
    all.push_back({r, here || came(r), peer.last_seen, peer.answer});
    if (!here) elsewhere.push_back(all.back());
  }
  give_up(time_out_text(timeout_, stamp_, elsewhere.empty() ? all : elsewhere));
}

bool NcclCommunicator::came(int peer) const {
  if (stage_ == Stage::starting) return false;
  return header_of(std::span(slot_of(buffers_->received, peer), slot_)).stamp == stamp_;
}

void NcclCommunicator::give_up(const std::string& why) {
  for (int r = 0; r < ranks(); ++r) {
    if (r != rank()) roll_call_->send(r, {Notice::Subject::given_up, number_, why});
  }
  leave();
  throw CommError(why);
}

void NcclCommunicator::leave() noexcept {
  if (fast_slots_ && stage_ != Stage::idle) fast_slots_->stop();
  fast_slots_.reset();
  nccl_.reset();
}

void NcclCommunicator::check(ncclResult_t result, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return;
  const char* more = ncclGetLastError(nccl_.get());
  const std::string place = stage_ == Stage::idle ? "" : to_string(stamp_) + ": ";
  give_up(place + "NCCL: " + what + ": " + ncclGetErrorString(result) +
          (more == nullptr || *more == '\0' ? "" : " (" + std::string(more) + ')'));
}

void NcclCommunicator::check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  const std::string place = stage_ == Stage::idle ? "" : to_string(stamp_) + ": ";
  give_up(place + "CUDA: " + what + ": " + cudaGetErrorString(error));
}

std::unique_ptr<Communicator> make_nccl_communicator(MpiSession& session, const NcclOptions& options,
                                                     LowLatencyFound* found) {
  const std::size_t slot = kMostSlots / static_cast<std::size_t>(session.ranks());
  auto made = std::make_unique<NcclCommunicator>(session, options, std::clamp(slot, kLeastSlot, kMostSlot));
  if (found != nullptr) *found = made->low_latency();
  return made;
}

}  // namespace coterie
