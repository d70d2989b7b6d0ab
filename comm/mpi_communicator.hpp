// The communicator over MPI. Its own header so that tests can make the pieces small.
#pragma once

#include "comm/communicator.hpp"
#include "comm/roll_call.hpp"
#include "comm/stamp.hpp"

#include <mpi.h>

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace coterie {

/// How messages are cut up. The same on all ranks.
struct MpiPieces {
  std::size_t first = 16 << 10;   ///< bytes that come unasked: every rank keeps as much ready for every other rank
  std::size_t rest = 1 << 30;     ///< the most that one MPI message carries of what is left (MPI counts in int)
  std::size_t weights = 4 << 20;  ///< the same of weights: short enough that a poll which moves one takes no long time
};

/// A message travels as its first bytes, for which the receiver has posted a receive before it knows that anything
/// comes, and, if it is longer than that, as further pieces, for which the header at its front says how long they are.
/// As each pair of ranks exchanges exactly one message in every collective, messages need no number: MPI keeps their
/// order. The stamp in the header tells whether both ranks mean the same collective.
///
/// Weights are the last pieces. Between nodes they may still be under way when `wait_for_rows` returns, and travel
/// while this rank computes; inside a node what is long moves only while both ends poll, so they are waited for at
/// once.
class MpiCommunicator final : public Communicator {
 public:
  MpiCommunicator(MpiSession::Job& job, const CommOptions& options, const MpiPieces& pieces);
  ~MpiCommunicator() override;
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  [[nodiscard]] int rank() const noexcept override { return rank_; }
  [[nodiscard]] int ranks() const noexcept override { return ranks_; }
  [[nodiscard]] std::span<const int> node_of_rank() const noexcept override { return node_of_rank_; }
  /// Of one rank, for then nothing travels.
  [[nodiscard]] bool reaches_devices() const noexcept override { return ranks_ == 1; }
  [[nodiscard]] std::vector<std::vector<std::byte>> all_gather(std::span<const std::byte> mine,
                                                               const Place& place) override;
  void begin(Outbox outbox, const Place& place) override;
  [[nodiscard]] bool progress() override;
  [[nodiscard]] Inbox& wait_for_rows() override;
  [[nodiscard]] Inbox finish() override;

 private:
  /// What MPI reads and writes while a collective is under way. When it fails, MPI may do so until the process ends.
  struct Buffers {
    std::vector<std::byte> first;  ///< (ranks, pieces.first): the first bytes from each rank
    Message shared;                ///< to all ranks alike
    Outbox outbox;
    Inbox inbox;
  };
  struct Peer {
    bool arrived = false;  ///< in the collective under way
    int open = 0;          ///< requests from and to it that are not done
    Stamp last_seen;
    std::optional<std::string> answer;  ///< to this rank's question where it stands
  };

  enum class Part { rows, weights };
  struct Piece {
    std::size_t bytes = 0;
    Part part = Part::rows;
  };

  void open(Stamp::Kind kind, const Place& place);
  /// The piece of a message that begins behind its first `done` bytes.
  [[nodiscard]] Piece piece_at(std::size_t done, const SectionSizes& sizes) const;
  /// Sends the pieces of this part.
  void send(int peer, std::span<const std::byte> wire, Part part);
  /// Until all of it is here, of weights all but the late ones when it is for rows.
  void wait(Part part);
  void close();
  [[nodiscard]] std::chrono::nanoseconds& least_of_these() noexcept {
    return least_[standing_ == static_cast<std::size_t>(ranks_) ? 1 : 0];
  }

  [[nodiscard]] int poll();
  void receive(int peer, const MPI_Status& status);
  void hear(int peer, const Notice& notice);
  /// What a request that `add` adds is for.
  enum class Role : char {
    row,       ///< a piece that rows wait for
    sent_row,  ///< one that this rank sends
    late,      ///< weights from or to another node
  };
  [[nodiscard]] bool is_late(int peer, Part part) const {
    return part == Part::weights && node_of_rank_[peer] != node_of_rank_[rank_];
  }
  void add(int peer, MPI_Request request, Role role);
  void ask_stragglers();
  [[noreturn]] void give_up(const std::string& why);
  [[nodiscard]] std::string where() const;
  [[nodiscard]] std::vector<int> stragglers() const;

  MPI_Comm comm_;
  RollCall* roll_call_;  ///< the session's
  int rank_;
  int ranks_;
  int number_;  ///< of this communicator among those of the session
  std::vector<int> node_of_rank_;
  std::chrono::duration<double> timeout_;
  MpiPieces pieces_;

  bool under_way_ = false;    ///< stays so when a collective fails
  bool interleaved_ = false;  ///< with work
  std::chrono::steady_clock::time_point begun_;
  Stamp stamp_;               ///< of the collective under way
  std::vector<Peer> peers_;   ///< (ranks)
  int open_ = 0;              ///< the sum of Peer::open
  int added_open_ = 0;        ///< of those, the ones of `add`
  int late_open_ = 0;         ///< of those, the ones that rows don't wait for
  int sent_rows_open_ = 0;    ///< of those, rows that this rank sends
  std::size_t standing_ = 0;  ///< the first so many of requests_ are not `add`'s
  /// What collectives whose messages were short took at least of late: those of some ranks, those of all.
  std::array<std::chrono::nanoseconds, 2> least_{};
  std::unique_ptr<Buffers> buffers_ = std::make_unique<Buffers>();
  /// (ranks): persistent receives of the first piece from each other rank. What comes for a later collective from a
  /// rank that has no part in this one waits there.
  std::vector<MPI_Request> receives_;
  /// First the roll call's and the receives from each other rank that takes part; then what `add` adds.
  std::vector<MPI_Request> requests_;
  std::vector<int> peer_of_request_;  ///< (requests)
  std::vector<Role> roles_;           ///< (requests)
  std::vector<int> held_back_;        ///< peers whose weights are sent when this rank's rows are
  std::vector<int> done_;             ///< (requests): what a poll writes
  std::vector<MPI_Status> statuses_;  ///< (requests)
};

}  // namespace coterie
