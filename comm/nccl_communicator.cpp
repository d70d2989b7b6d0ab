#include "comm/nccl_communicator.hpp"

#include "comm/mpi_check.hpp"
#include "comm/mpi_job.hpp"
#include "comm/nccl_sharing.hpp"
#include "comm/nvlink_domain.hpp"
#include "comm/outbox.hpp"

#include <sched.h>
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <exception>
#include <set>
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
constexpr int kTrials = 50;                     // exchanges of slots that are timed, of each way
constexpr std::size_t kTrialMessage = 2 << 10;  // bytes

/// What a rank tells the others.
struct Introduction {
  ncclUniqueId id{};  ///< rank 0's: where they meet
  int version = 0;    ///< of NCCL
  std::array<char, 64> domain{};
};

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

void NcclCommunicator::start(MpiSession& session, const NcclOptions& options) {
  const Place place{"NCCL's start"};
  int version = 0;
  check(ncclGetVersion(&version), "ncclGetVersion");  // reads no environment yet
  if (options.share_gpu) {
    const auto nodes = node_of_rank();
    const bool one_host = std::set<int>(nodes.begin(), nodes.end()).size() == 1;
    for (const auto& [name, value] : environment_to_share_gpus(version, rank(), one_host)) {
      ::setenv(name.c_str(), value.c_str(), 0);
    }
  }
  Introduction mine;
  mine.version = version;
  if (rank() == 0) check(ncclGetUniqueId(&mine.id), "ncclGetUniqueId");
  check(cudaSetDevice(options.gpu), "choosing the GPU");
  std::array<char, 32> bus_id{};
  check(cudaDeviceGetPCIBusId(bus_id.data(), static_cast<int>(bus_id.size()), options.gpu), "the GPU's PCI id");
  nvlink_domain(bus_id.data()).copy(mine.domain.data(), mine.domain.size() - 1);

  std::vector<Introduction> all;
  std::vector<std::string> domains;
  for (const auto& bytes : mpi_->all_gather(std::as_bytes(std::span(&mine, 1)), place)) {
    std::memcpy(&all.emplace_back(), bytes.data(), sizeof(Introduction));
    domains.emplace_back(all.back().domain.data());
  }
  const Introduction& first = all.front();
  if (first.version != mine.version) {
    throw CommError("NCCL: rank " + std::to_string(rank()) + " has version " + std::to_string(mine.version) +
                    ", rank 0 has " + std::to_string(first.version) + "; load the same on every host");
  }
  if (options.comm.ranks_per_node == 0) node_of_rank_ = nodes_of(mpi_->node_of_rank(), domains);

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream");
  stream_.reset(stream);
  for (Pinned* slots : {&buffers_->sent, &buffers_->received}) {
    void* memory = nullptr;
    check(cudaMallocHost(&memory, static_cast<std::size_t>(ranks()) * slot_), "pinned memory");
    std::memset(memory, 0, static_cast<std::size_t>(ranks()) * slot_);
    slots->reset(static_cast<std::byte*>(memory));
  }
  void* nothing = nullptr;
  check(cudaMalloc(&nothing, kLeastBulk), "memory of the GPU");
  buffers_->nothing.reset(static_cast<std::byte*>(nothing));
  buffers_->in_slots.resize(static_cast<std::size_t>(ranks()));

  open(place, Stage::starting);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  ncclComm_t made = nullptr;
  const ncclResult_t result = ncclCommInitRankConfig(&made, ranks(), first.id, session.rank(), &config);
  nccl_.reset(made);
  check(result, "ncclCommInitRankConfig");
  wait(Stage::weights);
  if (options.low_latency != LowLatency::off) find_low_latency(options.low_latency);
}

void NcclCommunicator::find_low_latency(LowLatency wanted) {
  const Place place{"the start of low latency"};
  const auto agree = [&](const std::string& mine) {
    const auto all = mpi_->all_gather(std::as_bytes(std::span(mine)), place);
    for (std::size_t r = 0; r < all.size(); ++r) {
      if (all[r].empty()) continue;
      return "rank " + std::to_string(r) + ": " +
             std::string(reinterpret_cast<const char*>(all[r].data()), all[r].size());
    }
    return std::string();
  };
  const auto finish = [&](ncclResult_t result, const char* call) {
    open(place, Stage::starting);
    check(result, call);
    wait(Stage::weights);
  };
  auto made = make_slot_exchange({nccl_.get(), stream_.get(), rank(), ranks(), slot_, kLeastBulk, agree, finish});
  fast_slots_ = std::move(made.exchange);
  low_latency_.trouble = made.trouble;
  low_latency_.used = fast_slots_ != nullptr;
  if (!fast_slots_ || wanted == LowLatency::on) return;

  std::array<double, 2> mine{};  // seconds: by NCCL, without it
  for (int trial = -1; trial < kTrials; ++trial) {
    for (const bool fast : {false, true}) {
      const double seconds = time_slots(fast);
      if (trial >= 0) mine[fast ? 1 : 0] += seconds / kTrials;
    }
  }
  std::array<double, 2> slowest{};
  for (const auto& bytes : mpi_->all_gather(std::as_bytes(std::span(mine)), place)) {
    std::array<double, 2> theirs{};
    std::memcpy(theirs.data(), bytes.data(), sizeof theirs);
    for (std::size_t i = 0; i < theirs.size(); ++i) slowest[i] = std::max(slowest[i], theirs[i]);
  }
  low_latency_.seconds_without = slowest[0];
  low_latency_.seconds = slowest[1];
  low_latency_.used = low_latency_.seconds < low_latency_.seconds_without;
  if (!low_latency_.used) drop_fast_slots(place);
}

void NcclCommunicator::drop_fast_slots(const Place& place) {
  open(place, Stage::starting);
  fast_slots_.reset();
  wait(Stage::weights);
}

double NcclCommunicator::time_slots(bool fast) {
  open({"the trial of low latency"}, Stage::starting);
  std::vector<Slot> slots;
  for (int peer = 0; peer < ranks(); ++peer) {
    const std::span message(slot_of(buffers_->sent, peer), std::min(slot_, kTrialMessage));
    if (peer != rank() && fast_slots_->reaches(std::array{peer})) {
      slots.push_back({peer, message, slot_of(buffers_->received, peer), {}, {}});
    }
  }
  const auto begun = Clock::now();
  send(slots, fast);
  wait(Stage::weights);
  return std::chrono::duration<double>(Clock::now() - begun).count();
}

/// Waits for the other ranks, which end theirs too; one that doesn't is left behind.
void NcclCommunicator::end() noexcept {
  try {
    drop_fast_slots({"NCCL's end"});
    open({"NCCL's end"}, Stage::starting);
    check(ncclCommFinalize(nccl_.get()), "ncclCommFinalize");
    wait(Stage::weights);
    (void)ncclCommDestroy(nccl_.release());
  } catch (const std::exception&) {
    nccl_.reset();
  }
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
